"""detection/modeling/transformers_losses.py: D-FINE's loss against its definition."""

import pytest
import torch
import torch.nn.functional as F
from detection.modeling.detr import by_kind
from detection.modeling.transformers_losses import d_fine_loss, weighted
from detection.writers.metric_names import MetricNames
from detectron2.data import MetadataCatalog
from tiny_detectors import tiny_detector

LAYERS, BINS = 3, 8


@pytest.fixture
def config():
    config = tiny_detector("d_fine").net.config
    config.max_num_bins = BINS
    return config


def predictions(seed: int = 0) -> dict[str, torch.Tensor]:
    """Of two images and five queries, by a decoder of three layers."""
    torch.manual_seed(seed)
    shape = (2, LAYERS + 1, 5)
    center, size = torch.rand(*shape, 2) * 0.4 + 0.3, torch.rand(*shape, 2) * 0.2 + 0.1
    return {
        "outputs_class": torch.randn(*shape, 3),
        "outputs_coord": torch.cat([center, size], -1),
        "predicted_corners": torch.randn(2, LAYERS, 5, 4 * (BINS + 1)),
        "initial_reference_points": torch.cat([center, size], -1)[:, 1:],
        "enc_topk_logits": torch.randn(2, 5, 3),
        "enc_topk_bboxes": torch.cat([center, size], -1)[:, 0],
    }


LABELS = [
    {
        "class_labels": torch.tensor([0, 2]),
        "boxes": torch.tensor([[0.4, 0.5, 0.2, 0.2], [0.6, 0.6, 0.15, 0.3]]),
    },
    {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.2]])},
]


def losses(config, outputs: dict) -> dict[str, torch.Tensor]:
    last = outputs["outputs_class"][:, -1], outputs["outputs_coord"][:, -1]
    _, parts, _ = d_fine_loss(
        last[0], LABELS, "cpu", last[1], config, denoising_meta_values=None, **outputs
    )
    return parts


def test_each_layer_is_trained_by_its_own_losses(config):
    """Numbers of a layer come from that layer alone; only the distillation looks at the last."""
    outputs = predictions()
    before = losses(config, outputs)
    # three of the last layer; of the two before it, of the first prediction, of the encoder
    kinds = {"vfl", "bbox", "giou", "fgl", "ddf"}
    suffixes = {0: "_aux_0", 1: "_aux_1", 2: ""}
    names = {f"loss_{kind}{suffix}" for kind in kinds for suffix in suffixes.values()}
    names |= {f"loss_{kind}_aux_{k}" for kind in ("vfl", "bbox", "giou") for k in (2, 3)}
    assert before.keys() == names
    changed = {
        key: {**outputs, key: value.clone() + 0.01 * torch.rand_like(value)}
        for key, value in outputs.items()
    }
    for layer, suffix in suffixes.items():
        for key, kind, index in [
            ("outputs_class", "vfl", layer + 1),
            ("outputs_coord", "bbox", layer + 1),
            ("predicted_corners", "fgl", layer),
        ]:
            other = {**outputs, key: outputs[key].clone()}
            other[key][:, index] = changed[key][key][:, index]
            after = losses(config, other)
            differing = {name for name in before if not torch.equal(before[name], after[name])}
            own = {name for name in differing if f"_{kind}" in name}
            assert own == {f"loss_{kind}{suffix}"}, (layer, key)
    other = {**outputs, "outputs_class": outputs["outputs_class"].clone()}
    other["outputs_class"][:, 0] += 0.1
    after = losses(config, other)
    differing = {name for name in before if not torch.equal(before[name], after[name])}
    assert differing == {"loss_vfl_aux_2"}, "the first prediction, before the layers"


def test_fine_grained_localization_is_as_in_the_paper(config):
    """Equation 6 of arXiv:2410.13842: IoU × (w← CE(p, n←) + w→ CE(p, n→)), over the boxes."""
    outputs = predictions()
    found = losses(config, outputs)
    from transformers.loss.loss_d_fine import bbox2distance
    from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

    def corners(b):
        return torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1)

    up = torch.tensor([config.up])
    for layer, suffix in ((0, "_aux_0"), (2, "")):
        logits, boxes = (outputs[f"outputs_{key}"][:, layer + 1] for key in ("class", "coord"))
        matcher = RTDetrHungarianMatcher(config)
        pairs = matcher({"logits": logits, "pred_boxes": boxes}, LABELS)
        total = 0.0
        for image, (queries, objects) in enumerate(pairs):
            for query, number in zip(queries, objects, strict=True):
                truth = corners(LABELS[image]["boxes"][number][None])
                reference = outputs["initial_reference_points"][image, layer, query][None]
                left, right_weight, left_weight = bbox2distance(
                    reference, truth, BINS, config.reg_scale, up
                )
                p = outputs["predicted_corners"][image, layer, query].view(4, BINS + 1)
                own = corners(boxes[image, query][None])
                low, high = torch.max(own, truth)[0, :2], torch.min(own, truth)[0, 2:]
                shared = (high - low).clamp(min=0).prod()
                areas = [(b[0, 2:] - b[0, :2]).prod() for b in (own, truth)]
                iou = shared / (sum(areas) - shared)
                for side in range(4):
                    n = left[side].long()
                    entropies = -F.log_softmax(p[side], 0)
                    both = left_weight[side] * entropies[n] + right_weight[side] * entropies[n + 1]
                    total += iou * both
        expected = config.weight_loss_fgl * total / 3  # boxes
        assert found[f"loss_fgl{suffix}"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_bins_are_those_of_the_weights(config):
    """D-FINE X has others than the configuration's default."""
    decoder = tiny_detector("d_fine").net.base_model.decoder
    outputs = predictions()
    assert (
        losses(config, {**outputs, "decoder": decoder}).items() == losses(config, outputs).items()
    )
    decoder.reg_scale.fill_(8.0)
    wide = losses(config, {**outputs, "decoder": decoder})
    config.reg_scale = 8.0
    for name, loss in losses(config, outputs).items():
        assert torch.equal(loss, wide[name])


def test_the_last_layer_teaches_the_others(config):
    outputs = predictions()
    outputs["predicted_corners"].requires_grad_()
    found = losses(config, outputs)
    assert found["loss_ddf"] == 0
    for layer in (0, 1):
        (gradient,) = torch.autograd.grad(
            found[f"loss_ddf_aux_{layer}"], outputs["predicted_corners"], retain_graph=True
        )
        taught = {k for k in range(LAYERS) if gradient[:, k].any()}
        assert taught == {layer}


def test_names_are_mmdetections():
    class RTDetr:
        pass

    class Detr:
        class_loss_coefficient, bbox_loss_coefficient, giou_loss_coefficient = 1, 5, 2

    one = torch.ones(())
    rt_detr = {
        f"loss_{kind}{suffix}": one
        for kind in ("vfl", "bbox", "giou")
        for suffix in ("", "_aux_0", "_aux_1", "_dn_0", "_dn_1")
    }
    parts = weighted(rt_detr, RTDetr())
    prefixes = ("", "d0.", "enc_", "dn_", "d0.dn_")
    assert parts.keys() == {f"{p}loss_{k}" for p in prefixes for k in ("cls", "bbox", "iou")}
    assert {k: v.item() for k, v in by_kind(parts).items()} == {
        "loss_cls": 1,
        "loss_bbox": 1,
        "loss_iou": 1,
        "loss_aux": 3,
        "loss_enc": 3,
        "loss_dn": 6,
    }
    MetadataCatalog.get("detr losses").set(thing_classes=["a"])
    for preset, prefix in (("mmdet2", "train/"), ("mmdet3", "")):
        to_new = MetricNames(preset, "detr losses")
        for name in parts:
            assert to_new(name, 0.5) == (f"{prefix}{name}", 0.5)
    detr = {"loss_ce": one, "loss_bbox_0": one, "loss_giou_enc": one, "cardinality_error": one}
    parts = weighted(detr, Detr())
    assert {k: v.item() for k, v in parts.items()} == {
        "loss_cls": 1,
        "d0.loss_bbox": 5,
        "enc_loss_iou": 2,
    }
