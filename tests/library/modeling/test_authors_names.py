"""Weights with D-FINE's and RT-DETRv2's authors' names: modeling/authors_names.py."""

import re

import pytest
import torch
from detection.checkpoint.files import SafeCheckpointer
from detection.modeling.authors_names import from_authors
from safetensors.torch import load_file
from tiny_detectors import CONFIGS, tiny_detector
from transformers import AutoConfig, AutoModelForObjectDetection

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
# from transformers' names to D-FINE's
BACK = [
    (r"^model\.backbone\.model\.embedder\.", "backbone.stem."),
    (r"^model\.backbone\.model\.encoder\.", "backbone."),
    (r"^(backbone.*)\.convolution\.", r"\1.conv."),
    (r"^(backbone.*)\.normalization\.", r"\1.bn."),
    (r"^model\.(en|de)coder_input_proj\.(\d)\.0\.", r"\1coder.input_proj.\2.conv."),
    (r"^model\.(en|de)coder_input_proj\.(\d)\.1\.", r"\1coder.input_proj.\2.norm."),
    (r"^model\.(enc_score|enc_bbox|denoising)", r"decoder.\1"),
    (r"^model\.enc_output\.0", "decoder.enc_output.proj"),
    (r"^model\.enc_output\.1", "decoder.enc_output.norm"),
    (r"_blocks\.(\d)\.conv([14])\.", r"_blocks.\1.cv\2."),
    (r"_blocks\.(\d)\.conv([23])\.", r"_blocks.\1.cv\2.1."),
    (r"_blocks\.(\d)\.csp_rep1\.", r"_blocks.\1.cv2.0."),
    (r"_blocks\.(\d)\.csp_rep2\.", r"_blocks.\1.cv3.0."),
    (r"downsample_convs\.(\d)\.conv", r"downsample_convs.\1.0.cv"),
    (r"^model\.encoder\.", "encoder."),
    (r"^(model\.decoder\.)?class_embed\.", "decoder.dec_score_head."),
    (r"^(model\.decoder\.)?bbox_embed\.", "decoder.dec_bbox_head."),
    (r"^model\.decoder\.(layers|lqe_layers)\.", r"decoder.decoder.\1."),
    (r"^model\.decoder\.", "decoder."),
    (r"self_attn_layer_norm", "norm1"),
    (r"encoder_attn_layer_norm", "norm2"),
    (r"^(decoder.*)final_layer_norm", r"\1norm3"),
    (r"^(encoder.*)final_layer_norm", r"\1norm2"),
    (r"encoder_attn", "cross_attn"),
    (r"\.fc([12])\.", r".linear\1."),
]


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


@pytest.mark.parametrize("content", ["model", "ema"])
def test_a_file_of_the_authors_is_loaded_whole(content, tmp_path, lines):
    torch.manual_seed(1)
    config = AutoConfig.for_model("d_fine", num_labels=3, **CONFIGS["d_fine"])
    net = AutoModelForObjectDetection.from_config(config)
    net.save_pretrained(tmp_path)
    authors, joint = {}, {}
    for name, value in load_file(tmp_path / "model.safetensors").items():
        for pattern, new in BACK:
            name = re.sub(pattern, new, name)
        if part := re.search(r"self_attn\.([qkv])_proj\.", name):
            joint.setdefault(name.replace(part[0], "self_attn.in_proj_"), {})[part[1]] = value
        else:
            authors[name] = value
    authors |= {name: torch.cat([parts[p] for p in "qkv"]) for name, parts in joint.items()}
    assert "decoder.decoder.layers.1.self_attn.in_proj_bias" in authors
    file = tmp_path / "dfine.pth"
    ema = {"model": {"x": torch.zeros(1)}, "ema": {"module": authors, "updates": 3}}
    torch.save(ema if content == "ema" else {"model": authors}, file)
    detector = tiny_detector("d_fine")
    SafeCheckpointer(detector, classes=["a", "b", "c"]).load(str(file))
    theirs, names = net.state_dict(), detector.hub_names()
    for name, value in detector.state_dict().items():
        assert torch.equal(value, theirs[names[name]]), name
    assert not [line for line in lines() if "lack" in line or "not used" in line]
