"""What can be wrong with a data set: each kind with its effect and its remedy, in one table."""

from dataclasses import dataclass

ERROR, WARNING, NOTE = SEVERITIES = "error", "warning", "note"


@dataclass(frozen=True)
class Kind:
    """
    One kind of problem.

    Attributes:
        severity: errors break training or falsify scores, warnings cost something, notes do not.
        what: the records or files that have it, in the plural.
        effect: on training or on the score.
        remedy: what to do by hand; may be empty.
        fix: what `--fix` does about it; empty if it cannot. It removes records as described in
            `detection.checks.fixes.fix_splits`: many of them by `--fix=drop` alone.
    """

    severity: str
    what: str
    effect: str
    remedy: str = ""
    fix: str = ""


def _kinds(severity: str, table: str) -> dict[str, Kind]:
    """
    Parse a table into {name: Kind}.

    An entry is `name: what`, then indented the effect, `by hand: ` with the remedy, and `--fix: `
    with what that does. Lines that are indented further continue the one before.
    """
    kinds = {}
    for entry in table.replace("\n        ", " ").replace("\n    ", "\t").split("\n"):
        head, *lines = entry.split("\t")
        name, _, what = head.partition(": ")
        texts = dict(line.split(": ", 1) for line in lines[1:])
        if name:
            remedy, fix = texts.get("by hand", ""), texts.get("--fix", "")
            kinds[name] = Kind(severity, what, lines[0], remedy, fix)
    return kinds


_REMOVES = "takes them out (more than a few: --fix=drop)"
_REMOVES_IMAGES = """takes them out with their annotations (more than a few: --fix=drop), unless
        predictions are due for them"""
_LOOK = """look at them; set WHITE in detection/utils/bit_depth.py if files of more than 8
        bits turn out too dark or too bright"""

_ERRORS = f"""
categories: categories that are not the classes of detection/classes.py
    the heads would learn other classes than the file means
    by hand: edit one of the two
    --fix: writes names that differ only in case, blanks or Unicode form as CLASSES does, adds
        missing categories, takes out unused ones
malformed_images: image records that cannot be used
    the file cannot be loaded
    by hand: write them as COCO does
    --fix: turns whole numbers in quotes into numbers, numbers other ids, takes sizes from the
        images; of the rest, {_REMOVES}
malformed_annotations: annotation records that cannot be used
    the file cannot be loaded
    by hand: write them as COCO does
    --fix: turns whole numbers in quotes into numbers, follows image ids that it numbers, gives ids
        that are lacking; of the rest, {_REMOVES}
repeated_image_ids: image ids that occur more than once
    annotations cannot be assigned to one image or the other
    by hand: give each image its own id
    --fix: keeps the first of records with the same file_name, numbers those without annotations;
        others need you
repeated_annotation_ids: annotation ids that occur more than once
    evaluators mix them up
    by hand: give each its own id
    --fix: gives the later ones new ids
unknown_image_ids: annotations of an image that the file does not list
    nobody knows where they belong
    by hand: list the image, or take them out
    --fix: {_REMOVES}
unknown_category_ids: annotations of a category that the file does not list
    nobody knows what they are
    by hand: list the category, or take them out
    --fix: {_REMOVES}
shifted_category_ids: annotations of a category that is not listed, as if all ids were off by one
    the other annotations would be learned as the class beside theirs
    by hand: if they count from another number than the categories, `make check ARGS=--fix=shift`
        moves all category_ids of a copy by one; else list the category, or take the annotations out
not_four_numbers: annotations whose bbox is not four finite numbers (x, y, w, h)
    the loss becomes NaN, or loading fails
    by hand: correct the boxes, or take them out
    --fix: reads numbers in quotes and objects, else takes the mask's box; of the rest, {_REMOVES}
odd_area: annotations whose area is not a number
    COCO's APs, APm and APl cannot be computed
    by hand: make it w * h, or the mask's area
    --fix: reads numbers in quotes, else makes it w * h
odd_iscrowd: annotations whose iscrowd is neither 0 nor 1
    evaluators need to know whether to ignore a region
    by hand: make it 0, or 1 for a region
    --fix: makes it 1 for "1" and true, else 0
ignored: annotations to "ignore", which detectron2 does not know (iscrowd: 1 comes closest)
    they would be trained on as objects
    by hand: set iscrowd to 1 in place of ignore
    --fix: sets iscrowd to 1 in place of ignore
odd_segmentation: annotations whose segmentation is neither polygons nor RLE
    loading fails
    by hand: write polygons [[x, y, …], …], or leave the segmentation out
    --fix: reads a flat polygon, points and numbers in quotes; else takes the segmentation out, the
        box stays
odd_run_lengths: annotations whose RLE does not fit their image
    training and evaluation would read past its end
    by hand: write size as the image's [height, width], and counts of as many pixels
    --fix: takes the segmentation out, the box stays
odd_keypoints: annotations whose keypoints are not numbers in threes
    loading fails
    by hand: write [x, y, visibility, …], or leave the keypoints out
    --fix: takes the keypoints out, the box stays
corners: boxes that seem to be x1, y1, x2, y2 where COCO has x, y, w, h
    every box would be learned too large
    by hand: subtract x1, y1 from x2, y2
    --fix: subtracts x1, y1 from x2, y2
fractions: boxes that seem to be fractions of the image where COCO has pixels
    every box would be smaller than a pixel
    by hand: multiply by width and height (YOLO's x, y are the centre)
only_crowds: annotations that are all crowd regions (iscrowd: 1)
    nothing can be trained on, nor be found in evaluation
    by hand: set iscrowd to 0 where an annotation is one object, whatever its mask's format
missing_images: missing image files
    training stops at the first of them
    by hand: put them there, or set image_root (here --image-root)
    --fix: takes the name that is there, if it differs in case, Unicode form or folders only and is
        the only such one; of the rest, {_REMOVES_IMAGES}
metric_collisions: metrics that would get one name, since a class is named like a metric or another
    training stops at once
    by hand: rename the class in detection/classes.py and the json, or a metric in
        detection/writers/metric_names.py
shared_images: images that another split has too
    what was trained on is also scored: the score is too high
    by hand: keep each in one split
    --fix: keeps them in the last of the files
torn_images: images of a fold's val.json whose content its train.json has too
    what was trained on is also scored: the score is too high
    by hand: split again, which keeps them together: `make split ARGS=--force`
unreadable_images: images that cannot be read
    training stops at the first of them
    by hand: fetch them again, or take them out
    --fix: {_REMOVES_IMAGES}
truncated_images: images whose end is missing
    training stops at the first of them
    by hand: fetch them again
    --fix: {_REMOVES_IMAGES}
other_sizes: images of another size than the json says
    training stops at the first of them, or boxes do not fit
    by hand: correct width and height, and the boxes if they were drawn at another size
    --fix: takes the image's where all boxes fit, and turns the boxes where EXIF explains it; others
        need you
only_blank_images: images that show nothing, and no others
    nothing can be learned from them
    by hand: {_LOOK}
"""

_WARNINGS = f"""
repeated_file_names: images listed under more than one id
    each is trained on with part of the boxes, or all weigh twice
    by hand: keep one record, with the annotations of all
    --fix: keeps the first, with the annotations of all
no_area: annotations whose box has no area
    left out of training, a miss in every evaluation
    by hand: draw them again, or take them out
    --fix: takes the mask's box; of the rest, {_REMOVES}
outside: annotations whose box is outside its image
    left out of training, a miss in every evaluation
    by hand: draw them again, or take them out
    --fix: {_REMOVES}
partly_outside: annotations more than a pixel outside their image
    clipped in training but not in evaluation, where IoU suffers
    by hand: clip them
    --fix: clips them
repeated_annotations: annotations with the image, class and box of another one
    each counts as an object: all except one are misses in every evaluation
    by hand: take the repeated ones out
    --fix: keeps the first
two_classes: annotations with the very box of another class
    the classifier learns both, and one is mostly wrong
    by hand: decide which class it is
no_polygon: annotations without a polygon of three points or more
    models of boxes train on the box, models of masks leave them out
    by hand: draw them again, or leave the segmentation out
    --fix: joins points to a polygon, else takes the segmentation out, the box stays
annotation_id_0: annotations with id 0
    pycocotools never counts them as found, so scores elsewhere are lower; we do count them
    by hand: give them another id
    --fix: gives them another id
empty_images: images without annotations
    left out of training unless filter_empty=False; in evaluation, all found there is wrong
    by hand: annotate them, if something is to be seen
absent_classes: classes without annotations
    not learned in training, and without an AP in evaluation
    by hand: split again, or see whether they are wanted
alike_classes: class names that differ from another one in spelling alone
    learned and scored as two classes
    by hand: if they are one class, give it one name and one id; else rename one
differing_categories: categories with another id or name than in the first file
    we map by name; tools that go by id mix classes up
    by hand: number them alike in all files
old_folds: images by which a fold differs from the file that was split
    it trains and scores on other data than the file has now
    by hand: split again: `make split ARGS=--force`
blank_images: images that show nothing, or nearly
    nothing can be learned from them, and boxes on them teach the wrong thing
    by hand: {_LOOK}
unused_bits: images of more than 8 bits, none of which uses the upper ones
    they are darker than they need be
    by hand: set WHITE in detection/utils/bit_depth.py, e.g. to 4095 for 12 bits in files of 16
turned_by_exif: images that EXIF says to turn
    detectron2 turns them; boxes drawn by a tool that does not are in the wrong place
    by hand: save them upright, and look whether the boxes fit
repeated_images: images with the content of another one of the split
    they weigh twice; boxes that differ contradict each other
    by hand: keep one
    --fix: keeps the one with the most annotations, unless predictions are due for them
"""

_NOTES = """
crowds: crowd annotations (iscrowd: 1)
    not trained on; in evaluation, what is in them does not count
no_annotations: no annotations
    fit for predictions, not to train or evaluate on
left_out_categories: categories that no annotation uses, and that are others' supercategory or have
        their name
    left out, since they are not classes of detection/classes.py; the other ids stay
category_numbering: category ids that do not run from 1
    mapped to CLASSES by name, and back in predictions
category_order: categories in another order than CLASSES
    mapped by name, so it does not matter
"""

KINDS = _kinds(ERROR, _ERRORS) | _kinds(WARNING, _WARNINGS) | _kinds(NOTE, _NOTES)
