"""Draw predictions next to the ground truth: a picture that shows at a glance what a model does.

    python tools/draw_predictions.py datasets/toy/val.json datasets/toy/images \\
        output/inference/coco_instances_results.json

Each row is one image, ground truth on the left, predictions on the right. The images are spread
evenly over the annotation file: the same call shows the same images for every model.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.data.coco import read_coco, validate
from detection.data.results import read_results
from detection.utils.drawing import class_colors, find_fonts
from detection.utils.errors import UserError
from detection.utils.images import read_image

CELL = 5.0  # inches: the width of an image in the picture


def load_annotations(path):
    """Returns [(image id, file name)], {category id: name} and boxes as `load_results` does."""
    coco = read_coco(path)
    validate(coco, path, ("id", "file_name"), ("image_id", "category_id", "bbox"))
    truth = defaultdict(list)
    for box in coco.get("annotations") or []:
        truth[box["image_id"]].append((box["category_id"], box["bbox"], None))  # no score
    names = {category["id"]: category["name"] for category in coco["categories"]}
    return [(image["id"], image["file_name"]) for image in coco["images"]], names, truth


def load_results(path, json_file, images, names, min_score):
    """Returns {image id: [(category id, xywh box, score)]}, the best score last."""
    coco = {"images": [{"id": id_, "file_name": file_name} for id_, file_name in images]}
    predictions = defaultdict(list)
    for box in sorted(read_results(path, json_file, coco, names), key=lambda box: box["score"]):
        if box["score"] >= min_score:
            predictions[box["image_id"]].append((box["category_id"], box["bbox"], box["score"]))
    return predictions


def choose_fonts(texts):
    """Returns the font families to write `texts` with, and the code points that none has."""
    paths, missing = find_fonts(texts)
    for path in paths:
        font_manager.fontManager.addfont(path)
    return [font_manager.get_font(path).family_name for path in paths], missing


def class_labels(names, missing):
    """Returns {category id: name, or #id if it has a code point in `missing`} and a note on it."""
    numbered = [i for i, name in names.items() if missing & set(map(ord, name))]
    labels = {i: f"#{i}" if i in numbered else name for i, name in names.items()}
    if not numbered:
        return labels, ""
    note = "#n is the class with category id n: no installed font can write its name"
    print(f"{note} (a CJK font would): " + ", ".join(f"#{i} {names[i]}" for i in numbered))
    return labels, note


def draw_boxes(ax, image, boxes, labels, colors):
    """Draw an image and [(category id, xywh box, score or None)] on it."""
    height, width = image.shape[:2]
    # In COCO the first pixel begins at 0; for imshow, unless told, its centre is there.
    ax.imshow(image, extent=(0, width, height, 0))
    ax.set_axis_off()
    for category_id, (x, y, w, h), score in boxes:
        color = colors[category_id]
        box = Rectangle((x, y), w, h, fill=False, edgecolor=color, linewidth=2)
        box.set_path_effects([withStroke(linewidth=3.5, foreground="black")])
        ax.add_patch(box)
        at_top, at_right = y < 0.05 * height, x > 0.7 * width  # labels stay inside the image
        ax.text(
            min(x + w, width) if at_right else max(x, 0),
            max(y, 0),
            labels[category_id] if score is None else f"{labels[category_id]} {score:.2f}",
            color="black" if np.dot(color, (0.3, 0.59, 0.11)) > 0.5 else "white",
            fontsize=9,
            horizontalalignment="right" if at_right else "left",
            verticalalignment="top" if at_top else "bottom",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.5, "alpha": 0.9},
            parse_math=False,  # a $ in a class name is a $
        )


def draw_predictions(annotation_file, image_dir, results_file, output, count=6, min_score=0.3):
    """Write the picture of `count` images to the PNG file `output`."""
    images, names, truth = load_annotations(annotation_file)
    predictions = load_results(results_file, annotation_file, images, names, min_score)
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    images = [images[i] for i in chosen]
    pixels = [read_image(str(Path(image_dir, file_name))) for _, file_name in images]

    families, missing = choose_fonts([*names.values(), *(name for _, name in images)])
    labels, note = class_labels(names, missing)
    colors = np.array(class_colors(len(names))) / 255
    colors = dict(zip(sorted(names), colors, strict=True))
    heights = [CELL * image.shape[0] / image.shape[1] for image in pixels]
    size = (2 * CELL, sum(heights) + 0.2 * len(heights) + 0.4)
    with rc_context({"font.family": families}):
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        rows = figure.subplots(len(images), 2, squeeze=False, height_ratios=heights)
        for row, (image_id, file_name), image in zip(rows, images, pixels, strict=True):
            draw_boxes(row[0], image, truth[image_id], labels, colors)
            draw_boxes(row[1], image, predictions[image_id], labels, colors)
            title = file_name.translate(dict.fromkeys(missing, "?"))
            row[0].set_title(title, fontsize=8, color="gray", loc="left", parse_math=False)
        figure.suptitle(f"Ground truth (left) and predictions, score {min_score:g} and up (right)")
        if note:
            figure.supxlabel(note, fontsize=9)
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, format="png")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Draw predictions next to the ground truth.")
    parser.add_argument("annotations", help="COCO annotation file")
    parser.add_argument("image_dir", help="folder that its file names are relative to")
    parser.add_argument("results", help="COCO results file")
    parser.add_argument("--output", default="output/predictions.png", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=6, help="images to draw, default: 6")
    parser.add_argument("--score", type=float, default=0.3, help="lowest score, default: 0.3")
    args = parser.parse_args(argv)
    try:
        if not 1 <= args.count <= 50:
            raise UserError(f"--count must be between 1 and 50, not {args.count}")
        files = args.annotations, args.image_dir, args.results, args.output
        draw_predictions(*files, args.count, args.score)
    except (UserError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(args.output)


if __name__ == "__main__":
    main()
