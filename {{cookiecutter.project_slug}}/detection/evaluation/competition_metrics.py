"""
What each competition ranks by, from 0 to 1; a new one is an entry in METRICS.

DEFAULT_METRIC is this project's. Training logs it as `competition/<name>` and picks the best
checkpoint by it; the leaderboard, ensembles, sweeps and submissions are judged by it too.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from detection.evaluation.extra_classes import open_images, with_none_class
from detection.evaluation.metric import Metric
from detection.evaluation.metric_kinds import mean_accuracy, mean_average_precision, mean_f_score
from detection.utils.errors import UserError

DEFAULT_METRIC = "{{ cookiecutter._metrics[cookiecutter.submission_format] }}"


def custom(coco: dict, results: Sequence[dict]) -> float:
    """
    The metric of the format "custom", to be replaced by your competition's: any number of which
    more is better.

    Here, as an example: the share of images whose number of objects is right, counting detections
    from a score of 0.5.

    Args:
        coco: a parsed COCO json with annotations.
        results: `[{image_id, category_id, bbox: [x, y, w, h] in pixels, score}]`.
    """
    wanted = Counter(a["image_id"] for a in coco["annotations"] if not a.get("iscrowd"))
    counted = Counter(r["image_id"] for r in results if r["score"] >= 0.5)
    ids = [image["id"] for image in coco["images"]]
    return sum(wanted[id_] == counted[id_] for id_ in ids) / len(ids)


def _range(first: float, last: float) -> list[float]:
    """IoU thresholds in steps of 0.05, both ends included."""
    return [k / 100 for k in range(round(100 * first), round(100 * last) + 1, 5)]


METRICS = {
    "mAP50": mean_average_precision(
        "The mean over classes of AP at IoU 0.5, as COCO's AP50 (pycocotools: precision at 101 "
        "recalls, 100 detections per image and class, crowds ignored).",
        [0.5],
    ),
    "coco_AP": mean_average_precision(
        "COCO's AP at IoU 0.50:0.95, https://cocodataset.org/#detection-eval, as pycocotools "
        "computes it.",
        _range(0.5, 0.95),
    ),
    "wheat_mAP": mean_accuracy(
        "Global Wheat Detection, https://www.kaggle.com/c/global-wheat-detection/overview/"
        "evaluation: the mean over images and over IoU 0.50:0.75 of TP / (TP + FP + FN). The page "
        "has IoU > t, public implementations and this one have IoU >= t.",
        _range(0.5, 0.75),
    ),
    "rsna_mAP": mean_accuracy(
        "RSNA Pneumonia Detection, https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/"
        "overview/evaluation: as Global Wheat over IoU 0.40:0.75. An image without boxes is 0 with "
        "any detection; without one it is left out of the mean, as in the public map_iou.",
        _range(0.4, 0.75),
    ),
    "cots_F2": mean_f_score(
        "Great Barrier Reef, https://www.kaggle.com/c/tensorflow-great-barrier-reef/overview/"
        "evaluation: the mean over IoU 0.30:0.80 of F2, from the counts over all images; IoU >= t "
        "as in the public competition-metric-implementation.",
        beta=2,
        iou_thresholds=_range(0.3, 0.8),
    ),
    "vinbigdata_mAP40": mean_average_precision(
        "VinBigData Chest X-ray, https://www.kaggle.com/c/vinbigdata-chest-xray-abnormalities-"
        "detection/overview/evaluation: PASCAL VOC 2010's mAP at IoU 0.4 (http://host.robots.ox.ac"
        ".uk/pascal/VOC/voc2010/devkit_doc_08-May-2010.pdf, 3.4.1), with the class No finding.",
        [0.4],
        partial(with_none_class, name="No finding"),
        every_recall=True,
    ),
    "siim_mAP50": mean_average_precision(
        "SIIM-FISABIO-RSNA COVID-19, https://www.kaggle.com/c/siim-covid19-detection/overview/"
        "evaluation: PASCAL VOC 2010's mAP at IoU 0.5 with the class none. The labels of whole "
        "studies, which count there too, are not boxes and not in it.",
        [0.5],
        partial(with_none_class, name="none"),
        every_recall=True,
    ),
    "open_images_mAP50": mean_average_precision(
        "Open Images Challenge, https://storage.googleapis.com/openimages/web/evaluation.html: "
        "PASCAL VOC 2010's mAP at IoU 0.5, each box also one of the classes above its own, "
        "group-of boxes as in TensorFlow's OpenImagesChallengeEvaluator.",
        [0.5],
        open_images,
        every_recall=True,
    ),
    "custom": Metric("The function `custom` above.", whole=custom),
}


def find_metric(name: str) -> Metric:
    """The metric of that name; UserError if there is none."""
    if name not in METRICS:
        raise UserError(f"there is no metric {name!r}; METRICS has {', '.join(METRICS)}")
    return METRICS[name]
