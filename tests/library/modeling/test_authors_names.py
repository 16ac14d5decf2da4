"""
Weights as the authors of D-FINE and RT-DETRv2 store them: modeling/authors_names.py.

`authors/*.txt` has the names and shapes of small models that the authors' own code built, and BEST
what that code predicted with the weights of `authors_state`: (score, class, cx, cy, w, h).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from detection.checkpoint.files import SafeCheckpointer
from detection.modeling.authors_names import from_authors
from detection.modeling.transformers_detector import TransformersDetector
from tiny_detectors import HYBRID

# from state_dicts of the authors' models, and from the conversion scripts of transformers
STEM, STAGE = (f"model.backbone.model.{part}" for part in ("embedder", "encoder.stages"))
ENCODER, LAYER = "model.encoder.encoder.0.layers.0", "model.decoder.layers.5"
NAMES = {
    "d_fine": {
        "backbone.stem.stem2a.conv.weight": f"{STEM}.stem2a.convolution.weight",
        "backbone.stem.stem1.lab.scale": "model.backbone.model.embedder.stem1.lab.scale",
        "backbone.stages.1.downsample.bn.bias": f"{STAGE}.1.downsample.normalization.bias",
        "backbone.stages.2.blocks.1.layers.3.conv1.conv.weight": (
            f"{STAGE}.2.blocks.1.layers.3.conv1.convolution.weight"
        ),
        "backbone.stages.0.blocks.0.aggregation.1.bn.bias": (
            f"{STAGE}.0.blocks.0.aggregation.1.normalization.bias"
        ),
        "encoder.fpn_blocks.0.cv1.conv.weight": "model.encoder.fpn_blocks.0.conv1.conv.weight",
        "encoder.fpn_blocks.1.cv2.0.bottlenecks.2.conv1.norm.weight": (
            "model.encoder.fpn_blocks.1.csp_rep1.bottlenecks.2.conv1.norm.weight"
        ),
        "encoder.pan_blocks.0.cv3.1.norm.bias": "model.encoder.pan_blocks.0.conv3.norm.bias",
        "encoder.downsample_convs.1.0.cv2.conv.weight": (
            "model.encoder.downsample_convs.1.conv2.conv.weight"
        ),
        "decoder.decoder.lqe_layers.5.reg_conf.layers.1.bias": (
            "model.decoder.lqe_layers.5.reg_conf.layers.1.bias"
        ),
        "decoder.decoder.layers.5.gateway.gate.weight": f"{LAYER}.gateway.gate.weight",
        "decoder.decoder.layers.5.cross_attn.num_points_scale": (
            f"{LAYER}.encoder_attn.num_points_scale"
        ),
        "decoder.pre_bbox_head.layers.2.bias": "model.decoder.pre_bbox_head.layers.2.bias",
        "decoder.up": "model.decoder.up",
        "decoder.reg_scale": "model.decoder.reg_scale",
    },
    "rt_detr_v2": {
        "backbone.conv1.conv1_2.norm.weight": (
            "model.backbone.model.embedder.embedder.1.normalization.weight"
        ),
        "backbone.res_layers.0.blocks.0.short.conv.weight": (
            f"{STAGE}.0.layers.0.shortcut.convolution.weight"
        ),
        "backbone.res_layers.2.blocks.0.short.conv.norm.bias": (
            f"{STAGE}.2.layers.0.shortcut.1.normalization.bias"
        ),
        "backbone.res_layers.2.blocks.5.branch2c.conv.weight": (
            f"{STAGE}.2.layers.5.layer.2.convolution.weight"
        ),
        "encoder.fpn_blocks.0.conv1.conv.weight": "model.encoder.fpn_blocks.0.conv1.conv.weight",
        "encoder.pan_blocks.1.bottlenecks.2.conv2.norm.weight": (
            "model.encoder.pan_blocks.1.bottlenecks.2.conv2.norm.weight"
        ),
        "decoder.decoder.layers.5.cross_attn.num_points_scale": (
            f"{LAYER}.encoder_attn.n_points_scale"
        ),
        "decoder.enc_bbox_head.layers.2.weight": "model.enc_bbox_head.layers.2.weight",
    },
}
BOTH = {
    "encoder.input_proj.2.conv.weight": "model.encoder_input_proj.2.0.weight",
    "decoder.input_proj.0.norm.running_mean": "model.decoder_input_proj.0.1.running_mean",
    "encoder.encoder.0.layers.0.linear1.bias": f"{ENCODER}.fc1.bias",
    "encoder.encoder.0.layers.0.norm2.bias": f"{ENCODER}.final_layer_norm.bias",
    "encoder.lateral_convs.0.norm.bias": "model.encoder.lateral_convs.0.norm.bias",
    "decoder.decoder.layers.5.self_attn.out_proj.bias": f"{LAYER}.self_attn.out_proj.bias",
    "decoder.decoder.layers.5.norm1.weight": f"{LAYER}.self_attn_layer_norm.weight",
    "decoder.decoder.layers.5.norm2.weight": f"{LAYER}.encoder_attn_layer_norm.weight",
    "decoder.decoder.layers.5.norm3.weight": f"{LAYER}.final_layer_norm.weight",
    "decoder.decoder.layers.5.linear2.weight": f"{LAYER}.fc2.weight",
    "decoder.query_pos_head.layers.0.weight": "model.decoder.query_pos_head.layers.0.weight",
    "decoder.enc_output.proj.weight": "model.enc_output.0.weight",
    "decoder.enc_output.norm.bias": "model.enc_output.1.bias",
    "decoder.enc_score_head.bias": "model.enc_score_head.bias",
    "decoder.denoising_class_embed.weight": "model.denoising_class_embed.weight",
    "decoder.dec_score_head.0.weight": "model.decoder.class_embed.0.weight",
}
CONFIGS = {
    "d_fine": {
        **HYBRID,
        "encoder_in_channels": [256, 512, 1024],
        "decoder_n_points": [3, 6, 3],
        "depth_mult": 0.34,
        "hidden_expansion": 0.5,
        "backbone_config": {
            "model_type": "hgnet_v2",
            "out_indices": [2, 3, 4],
            "use_learnable_affine_block": True,
            "hidden_sizes": [128, 256, 512, 1024],
            "stem_channels": [3, 16, 16],
            "stage_in_channels": [16, 64, 256, 512],
            "stage_mid_channels": [16, 32, 64, 128],
            "stage_out_channels": [64, 256, 512, 1024],
            "stage_num_blocks": [1, 1, 2, 1],
            "stage_numb_of_layers": [3, 3, 3, 3],
        },
    },
    "rt_detr_v2": {
        **HYBRID,
        "encoder_in_channels": [512, 1024, 2048],
        "backbone_config": {
            "model_type": "rt_detr_resnet",
            "depths": [2, 1, 1, 1],
            "out_features": ["stage2", "stage3", "stage4"],
        },
    },
}
BEST = {
    "d_fine": [
        [0.61994, 0, 0.80981, 0.01183, 0.06606, 0.00717],
        [0.60986, 0, 0.66016, 0.1742, 0.0841, 0.13878],
        [0.5985, 0, 0.61214, 0.00741, 0.17442, 0.00446],
        [0.59383, 0, 0.52413, 0.01745, 0.06075, 0.01618],
        [0.58043, 0, 0.02501, 0.44405, 0.43206, 0.10011],
    ],
    "rt_detr_v2": [
        [0.53416, 1, 0.34715, 0.99418, 0.00159, 0.04355],
        [0.53414, 1, 0.34327, 0.90182, 0.02134, 0.09758],
        [0.53307, 1, 0.24592, 0.88861, 0.02025, 0.09709],
        [0.53279, 1, 0.22399, 0.85612, 0.0199, 0.04814],
        [0.53264, 1, 0.21194, 0.915, 0.01809, 0.09669],
    ],
}


@pytest.mark.parametrize("family", NAMES)
def test_real_names(family):
    expected = {**NAMES[family], **BOTH}
    state = {name: torch.tensor([float(k)]) for k, name in enumerate(expected)}
    renamed = from_authors({**state, "decoder.anchors": torch.zeros(1)}, family)
    assert renamed.pop("class_embed.0.weight") is state["decoder.dec_score_head.0.weight"]
    assert renamed == {new: state[old] for old, new in expected.items()}
    joint = "decoder.decoder.layers.0.self_attn.in_proj_weight"
    head = {"decoder.dec_score_head.0.weight": torch.zeros(1)}
    parts = from_authors({**head, joint: torch.arange(6)}, family)
    own = [parts[f"model.decoder.layers.0.self_attn.{p}_proj.weight"].tolist() for p in "qkv"]
    assert own == [[0, 1], [2, 3], [4, 5]]


def test_other_names_stay():
    state = {"decoder.layers.0.norm1.weight": torch.zeros(1), "class_embed.weight": torch.zeros(1)}
    assert from_authors(state, "rf_detr") is state


def authors_state(family: str) -> dict[str, torch.Tensor]:
    shapes = {}
    for line in (Path(__file__).parent / f"authors/{family}.txt").read_text().splitlines():
        module, *parameters = line.split()
        for name, _, sizes in (p.partition("=") for p in parameters):
            shapes[f"{module}.{name}"] = [int(size) for size in sizes.split("x") if size]
    state = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        rng = np.random.default_rng(number)
        values = rng.standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            values = np.array(7)
        elif name.endswith(("running_var", "scale", "norm.weight", "bn.weight")):
            values = 0.5 + rng.random(shape)
        else:
            values = values * (np.prod(shape[1:]) / 2) ** -0.5 if len(shape) > 1 else 0.1 * values
        state[name] = torch.tensor(values, dtype=torch.float32)
    return state


@pytest.mark.parametrize("family", CONFIGS)
def test_predicts_as_the_authors_code_does(family, tmp_path, lines):
    state = authors_state(family)
    # real files have these too; they depend on the size of the images
    state["decoder.anchors"] = torch.zeros(1, 9, 4)
    state["decoder.valid_mask"] = torch.ones(1, 9, dtype=torch.bool)
    # the weights alone, and the file of a training
    alone, trained = {"model": state}, {"ema": {"module": state}, "model": {}, "last_epoch": 3}
    torch.save(alone if family == "d_fine" else trained, tmp_path / "authors.pth")
    detector = TransformersDetector(family, 3, config=CONFIGS[family]).eval()
    SafeCheckpointer(detector, classes=["a", "b", "c"]).load(str(tmp_path / "authors.pth"))
    assert not [line for line in lines() if "start fresh" in line or "not used" in line]
    pixels = torch.tensor(np.random.default_rng(0).random((1, 3, 64, 96)), dtype=torch.float32)
    with torch.no_grad():
        outputs = detector.net(pixel_values=pixels)
    scores, classes = outputs.logits[0].sigmoid().max(-1)
    best = scores.argsort(descending=True)[:5]
    found = torch.cat([scores[best, None], classes[best, None], outputs.pred_boxes[0, best]], 1)
    torch.testing.assert_close(found, torch.tensor(BEST[family]), atol=3e-4, rtol=0)


def test_the_heads_of_other_classes_start_fresh(tmp_path, lines):
    state = authors_state("d_fine")
    torch.save({"model": state}, tmp_path / "authors.pth")
    detector = TransformersDetector("d_fine", 2, config=CONFIGS["d_fine"])
    SafeCheckpointer(detector, classes=["a", "b"]).load(str(tmp_path / "authors.pth"))
    (line,) = [line for line in lines() if line.startswith("start fresh")]
    assert "class_embed" in line and "backbone" not in line
    name = "backbone.model.embedder.stem1.convolution.weight"
    assert torch.equal(detector.state_dict()[name], state["backbone.stem.stem1.conv.weight"])
