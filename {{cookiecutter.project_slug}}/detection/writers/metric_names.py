"""
The team's metric names for detectron2's, so that charts of different frameworks overlay.

A preset is one dictionary from detectron2's name to (new name, factor): to rename a metric or to
add one, edit it there, or add a line at its end, such as `"bbox/AP50": ("val/AP50", 0.01)`, which
wins over those above. `{class}` stands for each class of the data set. Losses and other training
scalars that a preset does not name go under `train/`. `competition/…` keeps its name.
"""

import ast
import logging
import re
from collections.abc import Sequence

from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT
from detection.utils.text import LONGEST_SAFE, printable, safe_name

logger = logging.getLogger(__name__)

# mmdetection's names: https://github.com/open-mmlab/mmdetection, `mmdet/models/*_heads` for losses
_MMDET_LOSSES = {
    "total_loss": "loss",
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_loc": "loss_rpn_bbox",
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_bbox",
    "loss_mask": "loss_mask",
    "loss_fcos_cls": "loss_cls",
    "loss_fcos_loc": "loss_bbox",
    "loss_fcos_ctr": "loss_centerness",
    "loss_bbox": "loss_bbox",
    "loss_iou": "loss_iou",
    **{f"loss_cls_stage{k}": f"s{k}.loss_cls" for k in range(3)},
    **{f"loss_box_reg_stage{k}": f"s{k}.loss_bbox" for k in range(3)},
}
_MMDET_ACCURACIES = {
    "fast_rcnn/cls_accuracy": "acc",
    **{f"stage{k}/fast_rcnn/cls_accuracy": f"s{k}.acc" for k in range(3)},
}
_VALIDATION_LOSSES = {f"val_loss/{old}": (f"val/{new}", 1) for old, new in _MMDET_LOSSES.items()}
_SIZES = {"AP": "", "AP50": "_50", "AP75": "_75", "APs": "_s", "APm": "_m", "APl": "_l"}

PRESETS = {
    # mmdetection 2.x as its W&B hook logs it: AP 0 to 1, accuracy 0 to 100
    "mmdet2": {
        "lr": ("learning_rate", 1),
        **{old: (f"train/{new}", 1) for old, new in _MMDET_LOSSES.items()},
        **{old: (f"train/{new}", 100) for old, new in _MMDET_ACCURACIES.items()},
        **_VALIDATION_LOSSES,
        **{f"bbox/{old}": (f"val/bbox_mAP{new}", 0.01) for old, new in _SIZES.items()},
        **{f"segm/{old}": (f"val/segm_mAP{new}", 0.01) for old, new in _SIZES.items()},
        "bbox/AP-{class}": ("val/bbox_mAP_{class}", 0.01),
        "bbox/AP50-{class}": ("val/bbox_mAP_50_{class}", 0.01),
        "segm/AP-{class}": ("val/segm_mAP_{class}", 0.01),
        "segm/AP50-{class}": ("val/segm_mAP_50_{class}", 0.01),
    },
    # mmdetection 3.x: no prefix for training, `coco/` for evaluation
    "mmdet3": {
        "lr": ("lr", 1),
        "time": ("time", 1),
        "data_time": ("data_time", 1),
        **{old: (new, 1) for old, new in _MMDET_LOSSES.items()},
        **{old: (new, 100) for old, new in _MMDET_ACCURACIES.items()},
        **_VALIDATION_LOSSES,
        **{f"bbox/{old}": (f"coco/bbox_mAP{new}", 0.01) for old, new in _SIZES.items()},
        **{f"segm/{old}": (f"coco/segm_mAP{new}", 0.01) for old, new in _SIZES.items()},
        "bbox/AP-{class}": ("coco/{class}_precision", 0.01),
        "bbox/AP50-{class}": ("coco/{class}_precision_50", 0.01),
        "segm/AP-{class}": ("coco/segm_{class}_precision", 0.01),
        "segm/AP50-{class}": ("coco/segm_{class}_precision_50", 0.01),
    },
    # detectron2's own names and scale, as in metrics.json
    "detectron2": {},
}

_LAYER_LOSS = re.compile(r"(d\w+\.|enc_|dn_)(dn_)?loss_")  # of DETRs, as mmdetection names them
_EVALUATION = re.compile("(bbox|segm|keypoints|competition)/")


class MetricNames:
    """Renames and scales detectron2's metrics; see the module's docstring."""

    def __init__(self, preset: str, dataset_name: str):
        """
        Args:
            preset: a key of PRESETS.
            dataset_name: a registered data set, whose `thing_classes` name the classes.

        Raises:
            UserError: an unknown preset, or two metrics that would get one name.
        """
        if preset not in PRESETS:
            raise UserError(f"no metric names {preset!r}; there are {', '.join(PRESETS)}")
        from detectron2.data import MetadataCatalog  # slow, and check_dataset.py does without

        classes = MetadataCatalog.get(dataset_name).thing_classes
        if collision := find_collision(preset, classes):
            raise UserError(
                f"metric names: {collision}; rename a class in detection/classes.py or a metric in "
                "detection/writers/metric_names.py"
            )
        self._preset = preset
        self._names = _rename(preset, classes)

    def __call__(self, name: str, value: float) -> tuple[str, float]:
        """The team's name and value for one of detectron2's; `competition/…` is so everywhere."""
        task, _, metric = name.partition("/")
        if task == "competition":
            return f"{task}/{metric.replace('/', '_')}", value
        new, factor = self._names.get(name) or self._unnamed(name)
        return new, value * factor

    def original(self, shown: str) -> str | None:
        """detectron2's name for one of the preset's; None where it has none."""
        return next((old for old, (new, _) in self._names.items() if new == shown), None)

    @staticmethod
    def is_evaluation(name: str) -> bool:
        """Whether detectron2's `name` is of an evaluation, not of training."""
        return bool(_EVALUATION.match(name))

    def _unnamed(self, name: str) -> tuple[str, float]:
        if self._preset == "detectron2" or name.startswith("train/"):
            return name, 1
        if self._preset == "mmdet3" and _LAYER_LOSS.match(name):
            return name, 1
        if name.startswith("val_loss/"):
            return name.replace("val_loss/", "val/", 1), 1
        if self.is_evaluation(name):
            prefix = "val" if self._preset == "mmdet2" else "coco"
            return f"{prefix}/{name.replace('/', '_')}", 1
        return f"train/{name}", 1


class SafeNames:
    """
    Gives each name the one that `safe_name` makes of it; of two that would share one, the second
    gets a number. Reports each change once.
    """

    def __init__(self, tracker: str):
        """
        Args:
            tracker: that takes no other names, for the log.
        """
        self._tracker = tracker
        self._names = {}

    def __call__(self, name: str) -> str:
        if name not in self._names:
            safe = safe_name(name)
            taken, number = set(self._names.values()), 2
            while safe in taken:
                safe, number = f"{safe_name(name)[: LONGEST_SAFE - 4]}_{number}", number + 1
            self._names[name] = safe
            if safe != name:
                logger.info(f"{self._tracker}: {printable(name)} is logged as {safe}")
        return self._names[name]


def find_collision(preset: str, classes: Sequence[str]) -> str:
    """Which two metrics of an evaluation would get one name, as a sentence; empty if none."""
    seen = {}
    for old, (new, _) in _rename(preset, classes).items():
        # models differ in their losses: one run never has both loss_cls and loss_fcos_cls
        if not MetricNames.is_evaluation(old):
            continue
        if new in seen:
            return f"{seen[new]} and {old} would both be logged as {new}"
        seen[new] = old
    return ""


def preset_in_use() -> str | None:
    """The preset that configs/common/writers.py names, without running it; None if it does not."""
    path = PROJECT_ROOT / "configs" / "common" / "writers.py"
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "preset":
            value = getattr(node.value, "value", None)
            return value if value in PRESETS else None
    return None


def _rename(preset: str, classes: Sequence[str]) -> dict[str, tuple[str, float]]:
    """{detectron2's name: (the team's name, factor)}, of each class too."""
    names = {}
    for class_name in classes:
        for task in ("bbox", "segm"):
            for metric in ("AP", "AP50"):
                old = "/".join((task, metric + "-{class}"))
                new, factor = PRESETS[preset].get(old, (old, 1))
                # a slash would open a section of its own in W&B and TensorBoard
                shown = new.replace("{class}", class_name.replace("/", "_"))
                names[old.replace("{class}", class_name)] = (shown, factor)
    names |= {old: renamed for old, renamed in PRESETS[preset].items() if "{class}" not in old}
    return names
