"""Contrastive denoising: queries made from noised labels, which speed up training."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert


class NoisedQueries(NamedTuple):
    """Queries for the decoder, and what they have to become."""

    content: Tensor  # (N, D, dim)
    boxes: Tensor  # (N, D, 4) as (x, y, w, h) from 0 to 1
    group: Tensor  # (D,), the group of each; groups do not see each other
    # of the queries with little noise: the image, the query, the object among those of all images
    pairs: tuple[Tensor, Tensor, Tensor]
    num_groups: int


class ContrastiveDenoising(nn.Module):
    """
    Two queries for each object, in several groups: one to be moved back to it, and one with more
    noise to be rejected (section 3.3 of the paper).
    """

    def __init__(
        self,
        num_classes: int,
        dim: int = 256,
        num_queries: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 0.4,
    ):
        """
        Args:
            num_classes: of the data.
            dim: of a query.
            num_queries: pairs of queries per image, in as many groups as they are enough for, one
                at least; 0: no denoising.
            label_noise: twice the part of the classes that are drawn at random.
            box_noise: the largest shift of a side, in halves of the box's size; queries to be
                rejected are shifted once to twice as far.
        """
        super().__init__()
        self.class_embed = nn.Embedding(num_classes, dim)
        self._num_queries = num_queries
        self._label_noise = label_noise
        self._box_noise = box_noise

    def forward(self, labels: list[dict]) -> NoisedQueries | None:
        """
        Args:
            labels: `class_labels` (boxes,) and `boxes` (boxes, 4) of each image.

        Returns:
            None where there is nothing to denoise.
        """
        counts = [len(label["boxes"]) for label in labels]
        most = max(counts)
        if not most or not self._num_queries:
            return None
        num_groups = max(1, self._num_queries // most)
        classes = pad_sequence([label["class_labels"] for label in labels], batch_first=True)
        boxes = pad_sequence([label["boxes"] for label in labels], batch_first=True)
        is_object = torch.arange(most, device=boxes.device) < boxes.new_tensor(counts)[:, None]
        shape = (len(labels), num_groups, 2, most)

        classes = classes[:, None, None].expand(shape)
        is_changed = torch.rand(shape, device=boxes.device) < self._label_noise / 2
        others = torch.randint_like(classes, self.class_embed.num_embeddings)
        content = self.class_embed(torch.where(is_changed, others, classes))

        shift = torch.rand(*shape, 4, device=boxes.device)
        shift[:, :, 1] += 1
        shift *= 2 * torch.randint_like(shift, 2) - 1
        halves = boxes[..., 2:].repeat(1, 1, 2)[:, None, None] / 2
        corners = box_convert(boxes, "cxcywh", "xyxy")[:, None, None]
        corners = (corners + self._box_noise * shift * halves).clamp(0, 1)
        boxes = box_convert(corners, "xyxy", "cxcywh")

        is_object = is_object[:, None, None, :, None]
        content = torch.where(is_object, content, 0.0).flatten(1, 3)
        boxes = torch.where(is_object, boxes, 0.5).flatten(1, 3)

        image, number = is_object[:, 0, 0, :, 0].nonzero(as_tuple=True)
        groups = torch.arange(num_groups, device=boxes.device)
        pairs = (
            image.repeat(num_groups),
            (2 * most * groups[:, None] + number).flatten(),
            torch.arange(len(image), device=boxes.device).repeat(num_groups),
        )
        return NoisedQueries(content, boxes, groups.repeat_interleave(2 * most), pairs, num_groups)
