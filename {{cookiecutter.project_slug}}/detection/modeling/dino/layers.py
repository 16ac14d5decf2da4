"""The layers of DINO's encoder and decoder."""

from itertools import pairwise

from torch import Tensor, nn

from detection.modeling.dino.attention import DeformableAttention


class EncoderLayer(nn.Module):
    """Pixels look at a few others on all maps."""

    def __init__(self, feedforward_dim: int, dim: int, **attention):
        super().__init__()
        self.self_attn = DeformableAttention(dim, **attention)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, pixels: Tensor, position: Tensor, references: Tensor, shapes, padding):
        seen = self.self_attn(pixels + position, references, pixels, shapes, padding)
        pixels = self.norm1(pixels + seen)
        return self.norm2(pixels + self.linear2(self.linear1(pixels).relu()))


class DecoderLayer(nn.Module):
    """Queries look at each other, and at a few pixels of all maps."""

    def __init__(self, feedforward_dim: int, dim: int, num_heads: int, **attention):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, num_heads, **attention)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, queries: Tensor, position: Tensor, references: Tensor, pixels, shapes, padding, hidden
    ):
        placed = queries + position
        seen, _ = self.self_attn(placed, placed, queries, attn_mask=hidden, need_weights=False)
        queries = self.norm2(queries + seen)
        seen = self.cross_attn(queries + position, references, pixels, shapes, padding)
        queries = self.norm1(queries + seen)
        return self.norm3(queries + self.linear2(self.linear1(queries).relu()))


class MLP(nn.Module):
    """Linear layers with ReLUs between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)
