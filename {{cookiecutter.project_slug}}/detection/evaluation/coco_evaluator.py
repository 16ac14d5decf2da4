"""detectron2's evaluator of a model, with the average precision of average_precision.py."""

import itertools
import json
import logging
import math
import os
from collections import OrderedDict

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from detection.data.coco import read_coco
from detection.evaluation.average_precision import average_precision, results_table
from detection.evaluation.competition_metrics import find_metric
from detection.evaluation.metric import describe, named_scores
from detection.utils.files import write_atomically
from detection.utils.paths import LAST_RESULTS

logger = logging.getLogger(__name__)


class COCOEvaluator(DatasetEvaluator):
    """
    Evaluates boxes, and masks where there are any, as COCO does.

    Results are named and scaled as in detectron2's own evaluator, 0 to 100, with two differences:
    every class has both `AP-<class>` and `AP50-<class>`, single-class data too; and what cannot be
    computed, such as the AP of a class without ground truth, is left out instead of being NaN.
    The competition's metric is beside them, on its own scale.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        only_seen: bool = False,
        metric: str | None = None,
    ):
        """
        Args:
            dataset_name: a registered data set whose metadata have `json_file` and `thing_classes`.
            output_dir: where `coco_instances_results.json` goes: predictions in COCO's results
                format, with the category ids of the json file. None writes nothing.
            only_seen: evaluate on the images that came along; else every image of the json file
                counts, so that one left out by mistake shows as a loss.
            metric: the competition's, a key of METRICS; None: none.

        Raises:
            UserError: there is no such metric.
        """
        if metric is not None:
            find_metric(metric)
        self._metric = metric
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = output_dir
        self._only_seen = only_seen
        self.reset()

    def reset(self):
        self._results = []
        self._seen = []

    def process(self, inputs, outputs):
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._results += instances_to_coco_json(instances, image["image_id"])
            self._seen.append(image["image_id"])

    def evaluate(self) -> OrderedDict:
        """
        Returns:
            `{"bbox": {"AP": …, "AP50": …, "AP-<class>": …, "AP50-<class>": …}}`, also "segm" where
            masks were predicted and annotated, and `"competition": {metric: …, metric-<class>: …}`,
            from 0 to 1; empty off the main process and for data without annotations.
        """
        comm.synchronize()
        results = list(itertools.chain.from_iterable(comm.gather(self._results, dst=0)))
        seen = set(itertools.chain.from_iterable(comm.gather(self._seen, dst=0)))
        if not comm.is_main_process():
            return OrderedDict()

        ids = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        results = [{**r, "category_id": ids[r["category_id"]]} for r in results]
        if self._output_dir:
            path = os.path.join(self._output_dir, os.path.basename(LAST_RESULTS))
            write_atomically(path, json.dumps(results).encode())  # twice as fast as json.dump

        ground_truth = read_coco(self._metadata.json_file)
        if self._only_seen:
            ground_truth["images"] = [i for i in ground_truth["images"] if i["id"] in seen]
            ground_truth["annotations"] = [
                a for a in ground_truth.get("annotations", []) if a["image_id"] in seen
            ]
        if not ground_truth.get("annotations"):
            logger.warning(f"{self._metadata.json_file} has no annotations, nothing to evaluate")
            return OrderedDict()
        tasks = ["bbox"]
        if any("segmentation" in r for r in results):
            if all(a.get("segmentation") for a in ground_truth["annotations"]):
                tasks.append("segm")
            else:
                lacks = "not every annotation has a mask, so masks are not evaluated"
                logger.warning(f"{self._metadata.json_file}: {lacks}")
        scores = OrderedDict()
        for task in tasks:
            scores[task] = average_precision(ground_truth, results, task)
            logger.info(f"{task} results:\n" + results_table(scores[task], ground_truth))
        if self._metric is not None:
            score = find_metric(self._metric).score(ground_truth, results)
            logger.info(f"competition/{self._metric}: {describe(score)}")
            if not math.isnan(score.value):
                scores["competition"] = named_scores(self._metric, score)
        return scores
