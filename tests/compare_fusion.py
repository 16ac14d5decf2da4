"""Compare fusion.py with ensemble-boxes on random boxes, for test_generated_project."""

import ensemble_boxes
import numpy as np
from detection.inference.fusion import fuse

SIZE = np.array([640, 480, 640, 480])
REFERENCE = {
    "wbf": ensemble_boxes.weighted_boxes_fusion,
    "nmw": ensemble_boxes.non_maximum_weighted,
    "nms": ensemble_boxes.nms,
}

rng = np.random.default_rng(0)
for trial in range(100):
    places, members = rng.uniform(0, SIZE[:2], (15, 2)), []
    for _ in range(rng.integers(1, 6)):
        n = rng.integers(0, 100)
        center = places[rng.integers(0, 15, n)] + rng.normal(0, 8, (n, 2))
        sides = rng.uniform(20, 90, (n, 2))
        boxes = np.clip(np.hstack([center - sides / 2, center + sides / 2]), 0, SIZE)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
        members.append((boxes, rng.uniform(0, 1, len(boxes)), rng.integers(0, 3, len(boxes))))
    if not any(len(boxes) for boxes, _, _ in members):
        continue
    parts = list(zip(*members, strict=True))
    weights = rng.uniform(0.2, 3, len(members)).tolist() if trial % 2 else None
    for method, reference in REFERENCE.items():
        got = fuse(*parts, SIZE[:2], method, 0.55, weights)
        relative = [boxes / SIZE for boxes in parts[0]]
        wanted = reference(relative, *map(list, parts[1:]), weights=weights, iou_thr=0.55)
        boxes, scores, labels = map(np.asarray, wanted)
        if method == "nms" and weights:  # it divides by the sum, and so lowers the best score
            scores = scores * sum(weights) / max(weights)
        order = np.argsort(-scores, kind="stable")
        np.testing.assert_array_equal(got[2], labels[order])
        np.testing.assert_allclose(got[1], scores[order], atol=1e-6)
        np.testing.assert_allclose(got[0] / SIZE, boxes[order], atol=1e-5)  # it has float32 boxes
print("equal")
