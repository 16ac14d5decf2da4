"""
Names of the weights in the authors' own files of D-FINE and RT-DETRv2, as `transformers` has them.

Sources: the modules of github.com/Peterande/D-FINE and github.com/lyuwenyu/RT-DETR.
"""

import re

import torch

_HEAD = re.compile(r"decoder\.dec_score_head\.0\.weight\Z")
_UNUSED = re.compile(r"decoder\.(anchors|valid_mask|decoder\.(up|reg_scale))\Z")  # constants

# applied in this order, each to the result of those before
_RENAMES = [
    (re.compile(old), new)
    for old, new in (
        # the backbones: PResNet and HGNetV2
        (r"^backbone\.conv1\.conv1_1\.", r"backbone.embedder.embedder.0."),
        (r"^backbone\.conv1\.conv1_2\.", r"backbone.embedder.embedder.1."),
        (r"^backbone\.conv1\.conv1_3\.", r"backbone.embedder.embedder.2."),
        (r"^backbone\.res_layers\.(\d+)\.blocks\.", r"backbone.encoder.stages.\1.layers."),
        (r"^(backbone.*)\.short\.conv\.(conv|norm)\.", r"\1.shortcut.1.\2."),
        (r"^(backbone.*)\.short\.", r"\1.shortcut."),
        (r"^(backbone.*)\.branch2a\.", r"\1.layer.0."),
        (r"^(backbone.*)\.branch2b\.", r"\1.layer.1."),
        (r"^(backbone.*)\.branch2c\.", r"\1.layer.2."),
        (r"^backbone\.stem\.", r"backbone.embedder."),
        (r"^backbone\.stages\.", r"backbone.encoder.stages."),
        (r"^(backbone.*)\.conv\.(\w+)$", r"\1.convolution.\2"),
        (r"^(backbone.*)\.(norm|bn)\.(\w+)$", r"\1.normalization.\3"),
        (r"^backbone\.", r"model.backbone.model."),
        # the encoder
        (r"^(en|de)coder\.input_proj\.(\d+)\.conv\.", r"model.\1coder_input_proj.\2.0."),
        (r"^(en|de)coder\.input_proj\.(\d+)\.norm\.", r"model.\1coder_input_proj.\2.1."),
        (r"^(encoder\.encoder.*)\.norm2\.", r"\1.final_layer_norm."),
        (r"^(encoder.*_blocks\.\d+)\.cv2\.0\.", r"\1.csp_rep1."),
        (r"^(encoder.*_blocks\.\d+)\.cv3\.0\.", r"\1.csp_rep2."),
        (r"^(encoder.*_blocks\.\d+)\.cv([23])\.1\.", r"\1.conv\2."),
        (r"^(encoder.*_blocks\.\d+)\.cv([14])\.", r"\1.conv\2."),
        (r"^(encoder\.downsample_convs\.\d+)\.0\.cv", r"\1.conv"),
        (r"^encoder\.", r"model.encoder."),
        # the decoder and the heads
        (r"^decoder\.decoder\.", r"decoder."),
        (r"\.cross_attn\.", r".encoder_attn."),
        (r"^(decoder\.layers.*)\.norm2\.", r"\1.encoder_attn_layer_norm."),
        (r"^(decoder\.layers.*)\.norm3\.", r"\1.final_layer_norm."),
        (r"^decoder\.dec_score_head\.", r"decoder.class_embed."),
        (r"^decoder\.dec_bbox_head\.", r"decoder.bbox_embed."),
        (r"^decoder\.enc_output\.proj\.", r"model.enc_output.0."),
        (r"^decoder\.enc_output\.norm\.", r"model.enc_output.1."),
        (r"^decoder\.(enc_score_head|enc_bbox_head|denoising_class_embed)\.", r"model.\1."),
        (r"^decoder\.", r"model.decoder."),
        # their transformer layers
        (r"\.layers\.(\d+)\.norm1\.", r".layers.\1.self_attn_layer_norm."),
        (r"\.layers\.(\d+)\.linear([12])\.", r".layers.\1.fc\2."),
    )
]


def from_authors(state: dict[str, torch.Tensor], model_type: str) -> dict[str, torch.Tensor]:
    """Weights of the authors' files with the names of `transformers`; others as they are."""
    if not any(_HEAD.match(name) for name in state):
        return state
    renamed = {}
    for old, value in state.items():
        if _UNUSED.match(old):
            continue
        name = old
        for pattern, new in _RENAMES:
            name = pattern.sub(new, name)
        if model_type == "rt_detr_v2":
            name = name.replace(".num_points_scale", ".n_points_scale")
        if ".in_proj_" in name:  # queries, keys and values in one
            for part, own in zip("qkv", value.chunk(3), strict=True):
                renamed[name.replace("in_proj_", f"{part}_proj.")] = own
        else:
            renamed[name] = value
        if head := re.match(r"model\.decoder\.((class|bbox)_embed\..*)", name):
            renamed[head[1]] = value  # the same under both names
    return renamed
