"""Pictures of a real training, as W&B's offline files and TensorBoard's event files hold them."""

import json

import cv2
import numpy as np
import pytest
import torch
import wandb
from conftest import read_wandb_rows
from detection.engine import prediction_images as pictures
from detection.engine.hooks import EvalHook, PeriodicWriter
from detection.engine.prediction_images import PredictionImages
from detection.utils import drawing
from detection.utils.drawing import Box, BoxPainter
from detection.writers.files import TensorboardWriter
from detection.writers.metric_names import MetricNames
from detection.writers.wandb_writer import WandbWriter
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import tiny_trainer

pytestmark = pytest.mark.usefixtures("offline")

NAMES = ["종이/팩", "x.y", 'q"uote']
CATEGORY_IDS = [0, 7, 3]
SIZES = {5: (100, 60), 6: (40, 30), 3: (300, 400), 9: (64, 64)}  # image id: width, height
CANVAS = 200, 150  # height, width that all of them need once the largest is 200 pixels
TRUTH = {  # image id: xywh boxes; nothing on image 6
    5: [(10.0, 15.0, 50.0, 30.0), (0.0, 0.0, 100.0, 60.0)],
    3: [(30.0, 40.0, 150.0, 200.0)],
    9: [(1.5, 2.5, 10.0, 20.0)],
}
CFG = OmegaConf.create({"train": {"log_period": 5}})


class Detector(torch.nn.Module):
    """Finds the whole image, as class 1, and its left half, as class 2, a little less surely."""

    def forward(self, inputs):
        return [{"instances": self.found(image["width"], image["height"])} for image in inputs]

    def found(self, width: int, height: int) -> Instances:
        boxes = Boxes(torch.tensor([[0.0, 0, width, height], [0, 0, width / 2, height]]))
        scores, classes = torch.tensor([0.9, 0.2]), torch.tensor([1, 2])
        return Instances((height, width), pred_boxes=boxes, scores=scores, pred_classes=classes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A registered validation set; one of its images lies in a folder with a Korean name."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "폴더").mkdir()
    images = []
    for id_, (width, height) in SIZES.items():
        name = f"폴더/{id_}.png" if id_ == 9 else f"{id_}.png"
        pixels = np.full((height, width, 3), 20 * id_, np.uint8)
        (folder / name).write_bytes(cv2.imencode(".png", pixels)[1])
        images.append({"id": id_, "file_name": name, "width": width, "height": height})
    annotations = [
        {"id": k, "image_id": id_, "category_id": CATEGORY_IDS[n], "bbox": list(box)}
        for id_, boxes in TRUTH.items()
        for k, (n, box) in enumerate(enumerate(boxes), start=10 * id_)
    ]
    annotations.append({**annotations[0], "id": 0, "iscrowd": 1})
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, NAMES, strict=True)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(coco), encoding="utf-8")
    MetadataCatalog.get("pictures test").set(
        json_file=str(folder / "val.json"),
        image_root=str(folder),
        thing_classes=NAMES,
        thing_dataset_id_to_contiguous_id={i: k for k, i in enumerate(CATEGORY_IDS)},
    )
    yield "pictures test"
    MetadataCatalog.remove("pictures test")


def train(dataset, writers, max_iter=10, eval_period=3, **options):
    """Evaluates at iterations 2, 5, 8 and 9; writers write at 4 and 9."""
    trainer = tiny_trainer([1.0] * max_iter)
    inputs = [[{"image_id": i, "width": w, "height": h}] for i, (w, h) in SIZES.items()]
    hook = PredictionImages(dataset, writers, **options)

    def evaluate():
        inference_on_dataset(Detector(), inputs, DatasetEvaluators([hook]))
        return {"bbox": {"AP": 10.0 * trainer.iter}}

    trainer.register_hooks(
        [
            EvalHook(eval_period, evaluate),
            hook,
            *(PeriodicWriter(writer, CFG) for writer in writers),
        ]
    )
    trainer.train(0, max_iter)
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    """The folder of a run that W&B and TensorBoard have written."""
    folder = tmp_path_factory.mktemp("run")
    names = MetricNames("detectron2", dataset)
    writers = [TensorboardWriter(str(folder), 5), WandbWriter(str(folder), names, period=5)]
    train(dataset, writers, max_size=200)
    return folder


@pytest.fixture(scope="module")
def rows(run):
    (run_dir,) = (run / "wandb").glob("offline-run-*")
    return {row["iter"]: row for row in read_wandb_rows(run_dir)}


def test_wandb_gets_them_in_the_row_of_each_evaluation(rows):
    assert list(rows) == [2, 4, 5, 8, 9], "none dropped"
    for at, row in rows.items():
        assert row.get("pictures.count") == (3 if at != 4 else None)
        assert ("bbox/AP" in row) == (at != 4)
        assert row["_step"] == at


def picture(row: dict, number: int) -> dict:
    """What the row says of that picture of its one list."""
    parts = {"path": "filenames", "caption": "captions", "boxes": "all_boxes"}
    return {name: row[f"pictures.{list_}"][number - 1] for name, list_ in parts.items()}


def test_wandb_boxes_are_fractions_with_class_and_score(rows, run):
    (files,) = (run / "wandb").glob("offline-run-*/files")
    for row in (row for at, row in rows.items() if at != 4):
        for number, id_ in enumerate(TRUTH, start=1):
            image = picture(row, number)
            width, height = SIZES[id_]
            scale = min(1, 200 / max(width, height))
            assert image["caption"] == ("폴더/9.png" if id_ == 9 else f"{id_}.png")
            pixels = cv2.imread(str(files / image["path"]))
            assert pixels.shape[:2] == CANVAS == (row["pictures.height"], row["pictures.width"])
            # what is beyond the image is gray
            assert (
                abs(pixels[int(height * scale) + 8 :, int(width * scale) + 8 :] - 128.0).max(
                    initial=0
                )
                < 8
            )
            height, width = CANVAS[0] / scale, CANVAS[1] / scale

            truth, predictions = (
                json.loads((files / image["boxes"][name]["path"]).read_text())
                for name in ("ground_truth", "predictions")
            )
            assert truth["class_labels"] == dict(zip("012", NAMES, strict=True))
            expected = [
                (n, (x / width, y / height, (x + w) / width, (y + h) / height))
                for n, (x, y, w, h) in enumerate(TRUTH[id_])
            ]
            assert [corners(b) for b in truth["box_data"]] == [
                (n, pytest.approx(box)) for n, box in expected
            ]
            assert not any("scores" in b for b in truth["box_data"])
            assert sorted(map(corners, predictions["box_data"])) == [
                (1, pytest.approx((0, 0, SIZES[id_][0] / width, SIZES[id_][1] / height))),
                (2, pytest.approx((0, 0, SIZES[id_][0] / 2 / width, SIZES[id_][1] / height))),
            ]
            scores = {b["class_id"]: b["scores"]["score"] for b in predictions["box_data"]}
            assert scores == {1: pytest.approx(0.9), 2: pytest.approx(0.2)}
            captions = {b["box_caption"] for b in predictions["box_data"]}
            assert captions == {"x.y 0.90", 'q"uote 0.20'}


def corners(box: dict) -> tuple[int, tuple[float, ...]]:
    position = box["position"]
    return box["class_id"], tuple(position[k] for k in ("minX", "minY", "maxX", "maxY"))


def test_tensorboard_gets_both_halves(run):
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["pictures/1", "pictures/2", "pictures/3"]
    for number, id_ in enumerate(TRUTH, start=1):
        shown = events.Images(f"pictures/{number}")
        assert [image.step for image in shown] == [2, 5, 8, 9]
        width, height = SIZES[id_]
        scale = min(1, 100 / width, 200 / height)
        assert {image.width for image in shown} == {2 * round(width * scale) + 4}
        pixels = cv2.imdecode(np.frombuffer(shown[-1].encoded_image_string, np.uint8), 1)
        background = np.all(pixels == 20 * id_, axis=2)
        assert background[:, : width // 4].any() and background[:, -width // 4 :].any()


def test_only_scores_of_note_are_drawn(dataset, tmp_path):
    drawn = {}
    for min_score in (0.1, 0.5, 0.95):
        folder = tmp_path / str(min_score)
        train(dataset, [TensorboardWriter(str(folder), 1)], 1, min_score=min_score)
        events = EventAccumulator(str(folder)).Reload()
        drawn[min_score] = events.Images("pictures/2")[0].encoded_image_string
    assert len(set(drawn.values())) == 3


def test_count_spreads_them_over_the_annotated_images(dataset, tmp_path):
    def shown(count):
        writer = WandbWriter(str(tmp_path), MetricNames("detectron2", dataset), mode="disabled")
        hook = PredictionImages(dataset, [writer], count=count)
        hook.before_train()
        return list(hook._chosen)

    assert shown(0) == []
    assert shown(1) == [5]
    assert shown(2) == [5, 9]
    assert shown(100) == [5, 3, 9]


def test_without_writers_nothing_is_kept(dataset):
    trainer = train(dataset, [])
    assert trainer.storage._vis_data == []


def test_without_a_json_file_there_are_none(tmp_path):
    MetadataCatalog.get("no json").set(thing_classes=NAMES)
    train("no json", [TensorboardWriter(str(tmp_path), 5)])
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == []


def test_what_fails_does_not_stop_training(dataset, tmp_path, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise wandb.Error("broken")

    monkeypatch.setattr(pictures, "boxes_image", fail)
    writer = WandbWriter(str(tmp_path), MetricNames("detectron2", dataset), period=5)
    train(dataset, [writer], max_iter=3)
    assert "no pictures of iteration 2: Error('broken')" in caplog.text


def test_names_without_a_font_are_numbers(monkeypatch):
    monkeypatch.setattr(drawing, "CJK_FONTS", ())
    painter = BoxPainter(NAMES, ["폴더.png"])
    assert painter._names == ["#0", *NAMES[1:]]
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = [Box(0, (5, 5, 20, 30)), Box(2, (-10, -10, 100, 100), 0.5), Box(1, (30, 30, 30, 30))]
    drawn = painter.side_by_side(image, {"폴더.png": boxes, "none": []})
    assert drawn.shape[1] == 2 * 60 + 4 and drawn.dtype == np.uint8
    assert np.ptp(drawn[-40:, :60].astype(int), axis=2).max() > 60, "coloured boxes"
    assert not drawn[-40:, -60:].any()


@pytest.mark.slow
def test_two_processes_show_each_others_predictions(train_net, toy, tmp_path):
    train_net(
        *("--num-gpus", "2", "train.max_iter=1"),
        *("model.roi_heads.box_predictor.test_score_thresh=0.0", f"train.output_dir={tmp_path}"),
    )
    (run_dir,) = (tmp_path / "wandb").glob("offline-run-*")
    (row,) = read_wandb_rows(run_dir)
    count = len(json.loads((toy / "val.json").read_text())["images"])
    for number in range(1, count + 1):
        path = picture(row, number)["boxes"]["predictions"]["path"]
        assert json.loads((run_dir / "files" / path).read_text())["box_data"]
