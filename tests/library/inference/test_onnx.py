"""ONNX files find what their models find, say what is needed, and are refused where they do not."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import predict
import pytest
import torch
from conftest import PROJECT_ROOT
from detection.checkpoint.load import load_weights
from detection.classes import CLASSES
from detection.config import load_config
from detection.data.results import images_file
from detection.inference.onnx.export import multiple_of, resize_of, versions, write
from detection.inference.onnx.graphs import graph_of
from detection.inference.onnx.masks import pasted
from detection.inference.onnx.metadata import Metadata
from detection.inference.onnx.runner import OnnxDetector
from detection.modeling.anchors import set_anchors
from detection.utils.images import read_image
from detection.utils.run_lengths import run_lengths
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec, paste_masks_in_image
from PIL import Image
from pycocotools import mask as pycocotools_mask

sys.path.append(str(Path(__file__).resolve().parents[1] / "modeling"))
import export  # of tools/
from tiny_detectors import tiny_detector, tiny_dino

SMOKE = "configs/debug/smoke.py"
LIMIT = 20  # boxes per image


def tiny(kind: str, num_classes: int = 3) -> torch.nn.Module:
    """A small model of a kind, whose predictions differ from box to box."""
    torch.manual_seed(0)
    if kind == "dino":
        model = tiny_dino(num_classes)
    elif kind in ("d_fine", "rt_detr_v2", "rf_detr"):
        model = tiny_detector(kind, num_classes)
    else:
        model = tiny_of_detectron2(kind, num_classes)
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0
        for name in ("test_topk_per_image", "max_detections_per_image"):
            if hasattr(module, name):
                setattr(module, name, LIMIT)
    with_statistics(model)
    return model.eval()


def tiny_of_detectron2(kind: str, num_classes: int) -> torch.nn.Module:
    smoke = LazyConfig.load(str(PROJECT_ROOT / SMOKE)).model
    config = LazyConfig.load(str(PROJECT_ROOT / f"configs/models/{kind}.py")).model
    config.backbone = smoke.backbone
    maps, strides = ["p2", "p3", "p4"], [4, 8, 16]
    shape = ShapeSpec(channels=64, height=7, width=7)
    if kind in ("retinanet", "fcos"):
        config.num_classes, config.head_in_features = num_classes, maps
        config.test_topk_candidates = 100
        config.head.input_shape = [ShapeSpec(channels=64)] * 3
        config.head.conv_dims = [64]
        if kind == "retinanet":
            config.anchor_generator.strides = strides
            set_anchors(config, {"sizes": [16, 32, 64], "aspect_ratios": [0.5, 1.0, 2.0]})
    else:
        config.proposal_generator = smoke.proposal_generator
        heads = config.roi_heads
        heads.num_classes, heads.box_in_features = num_classes, maps
        heads.box_pooler.scales = [1 / stride for stride in strides]
        for head in heads.get("box_heads") or [heads.box_head]:
            head.input_shape, head.fc_dims = shape, [32]
        for predictor in heads.get("box_predictors") or [heads.box_predictor]:
            predictor.input_shape = ShapeSpec(channels=32)
        if kind == "mask_rcnn":
            heads.mask_in_features, heads.mask_pooler.scales = maps, heads.box_pooler.scales
            heads.mask_head.input_shape = ShapeSpec(channels=64, height=14, width=14)
            heads.mask_head.conv_dims = [16, 16]
    model = instantiate(config)
    head, spread = (model.head, 0.03) if hasattr(model, "head") else (model.roi_heads, 0.1)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.add_(spread * torch.randn_like(parameter))
            if name == "cls_score.bias":  # of a dense detector, or it would be sure of nothing
                parameter.fill_(-1.0)
    return model


def with_statistics(model: torch.nn.Module) -> None:
    """Give BatchNorm the statistics of an image, so that a random model's values stay apart."""

    def set_statistics(norm, inputs):
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)) + 1e-5)

    norms = [m for m in model.modules() if hasattr(m, "running_var")]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    with torch.no_grad():
        model.eval()([{"image": torch.from_numpy(picture(96, 96).transpose(2, 0, 1).copy())}])
    for hook in hooks:
        hook.remove()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, uint8 (H, W, 3)."""
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    return smooth[0].clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()


def described(model: torch.nn.Module, classes: list[str], side: int | None, **other) -> Metadata:
    multiple, square = multiple_of(model)
    resize = {"kind": "shortest_edge", "short_edge_length": 96, "max_size": 160}
    if side:
        resize = {"kind": "square", "side": side, "letterbox": False}
    values = {
        "classes": classes,
        "channels": "RGB",
        "resize": resize,
        "canvas": [side, side] if side else None,
        "multiple": multiple,
        "square": square,
        "batch": None,
        "min_score": 0.0,
        "max_per_image": LIMIT,
        "has_masks": False,
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
        "config": "tiny.py",
        "weights": {"file": "none", "sha256": "0"},
        "written_by": versions(),
    }
    return Metadata(**{**values, **other})


def assert_same(found, instances) -> None:
    """The same boxes to 0.5 pixels, with the same labels and scores to 1e-3."""
    expected = instances.pred_boxes.tensor.numpy()
    assert len(found.boxes) == len(expected) > 0
    labels, scores = instances.pred_classes.numpy(), instances.scores.numpy()
    assert np.abs(found.scores - scores).max() < 1e-3
    for box, label, score in zip(expected, labels, scores, strict=True):
        same = (found.labels == label) & (np.abs(found.scores - score) < 1e-3)
        assert np.abs(found.boxes[same] - box).max(axis=1).min(initial=math.inf) < 0.5


def assert_detects_as(model: torch.nn.Module, detector: OnnxDetector, images: list) -> None:
    """In each image, alone and with the others."""
    resized = [detector.resized(image) for image in images]
    sizes = [image.shape[:2] for image in images]
    together = detector.detect(resized, sizes)
    alone = [detector.detect([r], [s])[0] for r, s in zip(resized, sizes, strict=True)]
    for number, (pixels, (height, width)) in enumerate(zip(resized, sizes, strict=True)):
        with torch.inference_mode():
            inputs = {"image": torch.from_numpy(pixels), "height": height, "width": width}
            (output,) = model([inputs])
        assert_same(together[number], output["instances"])
        assert_same(alone[number], output["instances"])


@pytest.mark.parametrize(
    "kind",
    [
        *("faster_rcnn", "cascade_rcnn", "mask_rcnn", "retinanet", "fcos"),
        *("dino", "d_fine", "rt_detr_v2", "rf_detr"),
    ],
)
def test_graph_of_each_kind_finds_what_its_model_finds(kind):
    """What is exported, run by PyTorch: three images of different sizes on one canvas."""
    model = tiny(kind)
    graph = graph_of(model, 0.0, LIMIT)
    sizes = [(96, 96)] * 3 if kind in ("d_fine", "rt_detr_v2") else [(96, 96), (80, 90), (70, 96)]
    canvas = np.zeros((3, 3, 96, 96), np.uint8)
    for number, (height, width) in enumerate(sizes):
        image = picture(height, width, number).transpose(2, 0, 1)
        canvas[number, :, :height, :width] = image
    with torch.inference_mode():
        boxes, scores, labels, *masks = graph(torch.from_numpy(canvas), torch.tensor(sizes))
        outputs = model(
            [
                {"image": torch.from_numpy(canvas[number, :, :h, :w].copy())}
                for number, (h, w) in enumerate(sizes)
            ]
        )
    for number, ((height, width), output) in enumerate(zip(sizes, outputs, strict=True)):
        expected = output["instances"]
        inside = boxes[number].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        kept = (scores[number] >= 0) & (inside[:, 2:] > inside[:, :2]).all(1)
        assert len(expected) == kept.sum() > 0
        torch.testing.assert_close(scores[number][kept], expected.scores, atol=1e-4, rtol=0)
        assert (labels[number][kept] == expected.pred_classes).float().mean() > 0.9  # but for ties
        for mask, box, whole in zip(
            *(masks[0][number][kept] if masks else [], inside[kept]),
            *(expected.pred_masks if masks else [],),
            strict=False,
        ):
            ours = pasted(mask.numpy(), box.numpy(), (height, width))
            assert (ours != whole.numpy()).mean() < 0.02


def test_dense_detector_of_one_size(tmp_path):
    """Images of several shapes on canvases of one."""
    model = tiny("fcos")
    metadata = described(model, ["a", "b", "c"], None, canvas=[96, 160])
    write(model, metadata, tmp_path / "m.onnx")
    detector = OnnxDetector(tmp_path / "m.onnx", threads=1)
    assert detector.metadata == metadata
    images = [picture(*shape, k) for k, shape in enumerate([(96, 160), (120, 200), (48, 80)])]
    assert_detects_as(model, detector, images)


def test_detr_of_one_size_one_class_and_pairs(tmp_path):
    """A last batch that is smaller than the file's is filled up."""
    model = tiny("d_fine", num_classes=1)
    metadata = described(model, ["일반 쓰레기 / '병'"], 64, batch=2)
    write(model, metadata, tmp_path / "모델.onnx")
    detector = OnnxDetector(tmp_path / "모델.onnx", threads=1)
    assert detector.metadata.classes == ["일반 쓰레기 / '병'"]
    assert_detects_as(model, detector, [picture(60, 80, k) for k in range(3)])


@pytest.fixture(scope="module")
def exported(toy, on_toy, tmp_path_factory):
    """
    A random R-CNN's folder with its checkpoint, annotations that are what it finds, and its file.
    """
    folder = tmp_path_factory.mktemp("exported")
    cfg = load_config(SMOKE, on_toy)
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    with torch.no_grad():
        for parameter in model.roi_heads.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    with_statistics(model)
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    command = ["--config-file", SMOKE, "--checkpoint", str(folder / "model.pth"), *on_toy]
    predict.main([*command, f"{toy}/val.json", "--output", f"{folder}/torch.json"])
    coco = json.loads((toy / "val.json").read_text(encoding="utf-8"))
    best = {}
    for result in json.loads((folder / "torch.json").read_text()):
        best.setdefault(result["image_id"], []).append(result)
    coco["annotations"] = [
        {**result, "id": k, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for k, result in enumerate((r for own in best.values() for r in own[:5]), start=1)
    ]
    (folder / "truth.json").write_text(json.dumps(coco))
    command += ["--json", f"{folder}/truth.json", "--image-root", f"{toy}/images"]
    command += [f"train.output_dir={folder}"]
    assert export.main([*command, "--runs", "2"]) == 0
    return folder, command


def test_onnx_predicts_as_the_checkpoint_without_torch(exported, toy, on_toy):
    """In a Python that can import neither PyTorch nor what comes with detectron2."""
    folder, _ = exported
    blocked = ["torch", "torchvision", "detectron2", "transformers", "timm", "omegaconf", "tqdm"]
    blocked += ["fvcore", "iopath", "simplejpeg", "hotcoco", "pycocotools", "scipy", "sklearn"]
    program = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"sys.path.insert(0, {str(PROJECT_ROOT)!r})\n"
        "runpy.run_path('predict.py', run_name='__main__')"
    )
    arguments = ["--onnx", f"{folder}/model.onnx", f"{toy}/val.json", "--batch-size", "3"]
    arguments += ["--image-root", f"{toy}/images", "--output", f"{folder}/onnx.json"]
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    ours, expected = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("onnx", "torch")
    )
    assert f"{len(ours)} boxes" in process.stdout
    assert json.loads(images_file(folder / "onnx.json").read_text())["models"]
    assert len(ours) == len(expected) > 0
    for result in expected:
        assert any(
            all(result[key] == other[key] for key in ("image_id", "category_id"))
            and abs(result["score"] - other["score"]) < 1e-3
            and np.abs(np.subtract(result["bbox"], other["bbox"])).max() < 0.5
            for other in ours
        ), result


def test_rcnn_of_any_size_and_number(exported, on_toy):
    model = instantiate(load_config(SMOKE, on_toy).model).eval()
    load_weights(model, "", str(exported[0] / "model.pth"))
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    detector = OnnxDetector(exported[0] / "model.onnx", threads=1)
    shapes = [(96, 96), (120, 90), (64, 150), (90, 120), (200, 96)]
    assert_detects_as(model, detector, [picture(*shape, k) for k, shape in enumerate(shapes)])


def test_nothing_found(exported):
    detector = OnnxDetector(exported[0] / "model.onnx", threads=1)
    boxes, scores, _ = detector.run([np.zeros((3, 0, 0), np.uint8)], (96, 128))
    assert boxes.shape[0] == 1
    assert (scores == -1).all()


def test_spoilt_file_is_refused(exported, monkeypatch, capsys, tmp_path):
    folder, command = exported

    def spoil(model, metadata, file):
        spoilt = onnx.load(str(folder / "model.onnx"))
        values = next(i for i in spoilt.graph.initializer if "cls_score.weight" in i.name)
        flipped = -onnx.numpy_helper.to_array(values)
        values.CopyFrom(onnx.numpy_helper.from_array(flipped, values.name))
        onnx.save(spoilt, str(file))

    monkeypatch.setattr("detection.inference.onnx.export.write", spoil)
    assert export.main([*command, "--runs", "0", "--output", f"{tmp_path}/model.onnx"]) == 1
    assert "loses more than 0.1 points of AP" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tta.enabled=True"], "tta.enabled=True cannot be exported"),
        (["tiles.enabled=True"], "tiles.enabled=True cannot be exported"),
        (["--size", "100x128"], "multiples of 16 pixels"),
        (["dataloader.test.mapper.augmentations=[]"], "nothing cannot be exported"),
        (["--json", "missing.json"], "missing.json: cannot be read"),
    ],
)
def test_what_cannot_be_exported(exported, capsys, arguments, said):
    assert export.main([*exported[1], *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_detr_keeps_its_size(toy, on_toy, capsys):
    command = ["--config-file", "configs/d_fine_M.py", "--size", "dynamic", *on_toy]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detection.modeling.build.build_model", lambda *_, **__: tiny("d_fine"))
        patch.setattr("detection.checkpoint.load.load_weights", lambda *_: "model.pth")
        assert export.main(command) == 2
    assert "keeps the size that it is exported for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--onnx", "{folder}/torch.json"], "cannot be run"),
        (["--onnx", "{folder}/none.onnx"], "no such file"),
        (["--onnx", "{folder}/model.onnx", "--max-per-image", "200"], "the file gives 100"),
        (["--onnx", "{folder}/model.onnx", "--config-file", SMOKE], "leave out configs/debug"),
        (["--onnx", "{folder}/model.onnx", "tta.enabled=True"], "leave out tta.enabled=True"),
    ],
)
def test_predict_refuses(exported, toy, arguments, said):
    command = [text.replace("{folder}", str(exported[0])) for text in arguments]
    process = subprocess.run(
        [sys.executable, "predict.py", *command, f"{toy}/val.json"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert said in process.stderr.splitlines()[-1]


def test_masks_as_detectron2_and_pycocotools_make_them():
    generator = np.random.default_rng(0)
    masks = generator.random((6, 28, 28), np.float32)
    boxes = np.sort(generator.random((6, 2, 2)) * (90, 60), axis=1).reshape(6, 4)
    boxes[:, 2:] += 2
    boxes = np.clip(boxes, 0, (90, 60, 90, 60)).astype(np.float32)
    whole = paste_masks_in_image(torch.from_numpy(masks), torch.from_numpy(boxes), (60, 90)).numpy()
    for mask, box, expected in zip(masks, boxes, whole, strict=True):
        assert (pasted(mask, box, (60, 90)) != expected).mean() < 1e-3
    for mask in [*whole, np.ones((3, 4)), np.zeros((3, 4)), np.eye(300)]:
        encoded = pycocotools_mask.encode(np.asfortranarray(mask, np.uint8))
        expected = {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
        assert run_lengths(np.asarray(mask, bool)) == expected


def test_jpeg_has_the_same_pixels_without_simplejpeg(tmp_path, monkeypatch):
    Image.fromarray(picture(75, 101)).save(tmp_path / "a.jpg", quality=90)
    expected = read_image(str(tmp_path / "a.jpg"))
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert (read_image(str(tmp_path / "a.jpg")) == expected).all()


def test_resizing_is_that_of_the_loader():
    """To the pixel, whatever the shape."""
    for config, letterbox in (
        (SMOKE, False),
        ("configs/d_fine_M.py", False),
        ("configs/d_fine_M.py", True),
    ):
        cfg = load_config(config)
        node = cfg.dataloader.test.mapper.augmentations
        if letterbox:
            node[0].letterbox = True
        augmentations = instantiate(node)
        model = tiny_detector("rt_detr_v2")
        metadata = described(model, list(CLASSES), None, resize=resize_of(augmentations))
        for size in ((96, 128), (333, 500), (1024, 77), (51, 1000), (640, 641)):
            transform = augmentations[0].get_transform(np.zeros((*size, 3), np.uint8))
            assert metadata.resized(*size) == (transform.new_h, transform.new_w)
