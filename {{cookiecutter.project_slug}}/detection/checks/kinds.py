"""What can be wrong with a data set: each kind with its effect and its remedy, in one table."""

from dataclasses import dataclass

ERROR, WARNING, NOTE = SEVERITIES = "error", "warning", "note"


@dataclass(frozen=True)
class Kind:
    """
    One kind of oddity.

    Attributes:
        severity: errors break training or falsify scores, warnings cost something, notes do not.
        what: it is, in the plural.
        effect: on training or on the score.
        remedy: what to do by hand.
        fix: what `--fix` does about it; empty if it cannot. It takes records out as described in
            `detection.checks.fixes.fix_splits`: many of them by `--fix=drop` alone.
    """

    severity: str
    what: str
    effect: str
    remedy: str = ""
    fix: str = ""


_LEFT_OUT = "takes them out (more than a few: --fix=drop)"
_IMAGES_LEFT_OUT = (
    "takes them out with their annotations (more than a few: --fix=drop), unless predictions are "
    "due for them"
)

KINDS = {
    # -- the records ---------------------------------------------------------------------------
    "categories": Kind(
        ERROR,
        "categories that are not the classes of detection/classes.py",
        "the heads would learn other classes than the file means",
        "edit one of the two",
        "writes names that differ only in case, blanks or Unicode form as CLASSES does, adds "
        "missing categories, takes out unused ones",
    ),
    "malformed_images": Kind(
        ERROR,
        "image records that cannot be used",
        "the file cannot be loaded",
        "write them as COCO does",
        "turns whole numbers in quotes into numbers, numbers other ids, takes sizes from the "
        f"images; of the rest, {_LEFT_OUT}",
    ),
    "malformed_annotations": Kind(
        ERROR,
        "annotation records that cannot be used",
        "the file cannot be loaded",
        "write them as COCO does",
        "turns whole numbers in quotes into numbers, follows image ids that it numbers, gives ids "
        f"that are lacking; of the rest, {_LEFT_OUT}",
    ),
    "repeated_image_ids": Kind(
        ERROR,
        "image ids that stand more than once",
        "annotations cannot be told to belong to one or the other",
        "give each image its own id",
        "keeps the first of records with the same file_name, numbers those without annotations; "
        "others need you",
    ),
    "repeated_file_names": Kind(
        WARNING,
        "images listed under more than one id",
        "each is trained on with part of the boxes, or all weigh twice",
        "keep one record, with the annotations of all",
        "keeps the first, with the annotations of all",
    ),
    "repeated_annotation_ids": Kind(
        ERROR,
        "annotation ids that stand more than once",
        "evaluators mix them up",
        "give each its own id",
        "gives the later ones new ids",
    ),
    "unknown_image_ids": Kind(
        ERROR,
        "annotations of an image that the file does not list",
        "nobody knows where they belong",
        "list the image, or take them out",
        _LEFT_OUT,
    ),
    "unknown_category_ids": Kind(
        ERROR,
        "annotations of a category that the file does not list",
        "nobody knows what they are",
        "list the category, or take them out",
        _LEFT_OUT,
    ),
    "shifted_category_ids": Kind(
        ERROR,
        "annotations of a category that is not listed, as if all ids were off by one",
        "the other annotations would be learnt as the class beside theirs",
        "if they count from another number than the categories, `make check ARGS=--fix=shift` "
        "moves all category_ids of a copy by one; else list the category, or take the annotations "
        "out",
    ),
    "not_four_numbers": Kind(
        ERROR,
        "annotations whose bbox is not four finite numbers (x, y, w, h)",
        "the loss becomes NaN, or loading fails",
        "correct the boxes, or take them out",
        f"reads numbers in quotes and objects, else takes the mask's box; of the rest, {_LEFT_OUT}",
    ),
    "odd_area": Kind(
        ERROR,
        "annotations whose area is no number",
        "COCO's APs, APm and APl cannot be computed",
        "make it w * h, or the mask's area",
        "reads numbers in quotes, else makes it w * h",
    ),
    "odd_iscrowd": Kind(
        ERROR,
        "annotations whose iscrowd is neither 0 nor 1",
        "evaluators need to know whether to ignore a region",
        "make it 0, or 1 for a region",
        'makes it 1 for "1" and true, else 0',
    ),
    "ignored": Kind(
        ERROR,
        'annotations to "ignore", which detectron2 does not know (iscrowd: 1 comes closest)',
        "they would be trained on as objects",
        "set iscrowd to 1 in place of ignore",
        "sets iscrowd to 1 in place of ignore",
    ),
    "odd_segmentation": Kind(
        ERROR,
        "annotations whose segmentation is neither polygons nor RLE",
        "loading fails",
        "write polygons [[x, y, …], …], or leave the segmentation out",
        "reads a flat polygon, points and numbers in quotes; else takes the segmentation out, the "
        "box stays",
    ),
    "odd_run_lengths": Kind(
        ERROR,
        "annotations whose RLE does not fit their image",
        "training and evaluation would read past its end",
        "write size as the image's [height, width], and counts of as many pixels",
        "takes the segmentation out, the box stays",
    ),
    "odd_keypoints": Kind(
        ERROR,
        "annotations whose keypoints are not numbers in threes",
        "loading fails",
        "write [x, y, visibility, …], or leave the keypoints out",
        "takes the keypoints out, the box stays",
    ),
    # -- the boxes -----------------------------------------------------------------------------
    "corners": Kind(
        ERROR,
        "boxes that seem to be x1, y1, x2, y2 where COCO has x, y, w, h",
        "every box would be learnt too large",
        "subtract x1, y1 from x2, y2",
        "subtracts x1, y1 from x2, y2",
    ),
    "fractions": Kind(
        ERROR,
        "boxes that seem to be fractions of the image where COCO has pixels",
        "every box would be smaller than a pixel",
        "multiply by width and height (YOLO's x, y are the centre)",
    ),
    "no_area": Kind(
        WARNING,
        "annotations whose box has no area",
        "left out of training, a miss in every evaluation",
        "draw them again, or take them out",
        f"takes the mask's box; of the rest, {_LEFT_OUT}",
    ),
    "outside": Kind(
        WARNING,
        "annotations whose box lies outside its image",
        "left out of training, a miss in every evaluation",
        "draw them anew, or take them out",
        _LEFT_OUT,
    ),
    "partly_outside": Kind(
        WARNING,
        "annotations more than a pixel outside their image",
        "clipped in training but not in evaluation, where IoU suffers",
        "clip them",
        "clips them",
    ),
    "repeated_annotations": Kind(
        WARNING,
        "annotations with the image, class and box of another one",
        "each counts as an object: all but one are misses in every evaluation",
        "take the repeated ones out",
        "keeps the first",
    ),
    "two_classes": Kind(
        WARNING,
        "annotations with the very box of another class",
        "the classifier learns both, and one is mostly wrong",
        "decide which class it is",
    ),
    "no_polygon": Kind(
        WARNING,
        "annotations without a polygon of three points or more",
        "models of boxes train on the box, models of masks leave them out",
        "draw them again, or leave the segmentation out",
        "joins points to a polygon, else takes the segmentation out, the box stays",
    ),
    "annotation_id_0": Kind(
        WARNING,
        "annotations with id 0",
        "pycocotools never counts them as found, so scores elsewhere are lower; we do count them",
        "give them another id",
        "gives them another id",
    ),
    "crowds": Kind(
        NOTE,
        "crowd annotations (iscrowd: 1)",
        "not trained on; in evaluation, what lies in them does not count",
    ),
    "only_crowds": Kind(
        ERROR,
        "annotations that are all crowd regions (iscrowd: 1)",
        "nothing can be trained on, nor be found in evaluation",
        "set iscrowd to 0 where an annotation is one object, whatever its mask's format",
    ),
    # -- images and classes, as the json has them ----------------------------------------------
    "missing_images": Kind(
        ERROR,
        "images that are not there",
        "training stops at the first of them",
        "put them there, or set image_root (here --image-root)",
        "takes the name that is there, if it differs in case, Unicode form or folders only and "
        "is the only such one; of the rest, takes them out with their annotations (more than a "
        "few: --fix=drop), unless predictions are due for them",
    ),
    "no_annotations": Kind(
        NOTE,
        "no annotations",
        "fit for predictions, not to train or evaluate on",
    ),
    "empty_images": Kind(
        WARNING,
        "images without annotations",
        "left out of training unless filter_empty=False; in evaluation, all found there is wrong",
        "annotate them, if something is to be seen",
    ),
    "absent_classes": Kind(
        WARNING,
        "classes without annotations",
        "in training not learnt, in evaluation without AP",
        "split anew, or see whether they are wanted",
    ),
    "left_out_categories": Kind(
        NOTE,
        "categories that no annotation uses, and that are others' supercategory or have their name",
        "left out, since they are no classes of detection/classes.py; the other ids stay",
    ),
    "alike_classes": Kind(
        WARNING,
        "class names that differ from another one in spelling alone",
        "learnt and scored as two classes",
        "if they are one class, give it one name and one id; else rename one",
    ),
    "metric_collisions": Kind(
        ERROR,
        "metrics that would get one name, since a class is named like a metric or like another",
        "training stops at once",
        "rename the class in detection/classes.py and the json, or a metric in "
        "detection/writers/metric_names.py",
    ),
    "category_numbering": Kind(
        NOTE,
        "category ids that do not run from 1",
        "mapped to CLASSES by name, and back in predictions",
    ),
    "category_order": Kind(
        NOTE,
        "categories in another order than CLASSES",
        "mapped by name, so that it does not matter",
    ),
    # -- several splits ------------------------------------------------------------------------
    "differing_categories": Kind(
        WARNING,
        "categories with another id or name than in the first file",
        "we map by name; tools that go by id mix classes up",
        "number them alike in all files",
    ),
    "shared_images": Kind(
        ERROR,
        "images that another split has too",
        "what was trained on is also scored: the score is too high",
        "keep each in one split",
        "keeps them in the last of the files",
    ),
    "torn_images": Kind(
        ERROR,
        "images of a fold's val.json whose content its train.json has too",
        "what was trained on is also scored: the score is too high",
        "split again, which keeps them together: `make split ARGS=--force`",
    ),
    "old_folds": Kind(
        WARNING,
        "images by which a fold differs from the file that was split",
        "it trains and scores on other data than the file has now",
        "split again: `make split ARGS=--force`",
    ),
    # -- the images themselves -----------------------------------------------------------------
    "unreadable_images": Kind(
        ERROR,
        "images that cannot be read",
        "training stops at the first of them",
        "fetch them again, or take them out",
        _IMAGES_LEFT_OUT,
    ),
    "truncated_images": Kind(
        ERROR,
        "images whose end is missing",
        "training stops at the first of them",
        "fetch them again",
        _IMAGES_LEFT_OUT,
    ),
    "other_sizes": Kind(
        ERROR,
        "images of another size than the json says",
        "training stops at the first of them, or boxes do not fit",
        "correct width and height, and the boxes if they were drawn at another size",
        "takes the image's where all boxes fit, and turns the boxes where EXIF explains it; "
        "others need you",
    ),
    "blank_images": Kind(
        WARNING,
        "images that show nothing, or nearly",
        "nothing can be learnt from them, and boxes on them teach the wrong thing",
        "look at them; set WHITE in detection/utils/bit_depth.py if files of more than 8 bits turn "
        "out too dark or too bright",
    ),
    "only_blank_images": Kind(
        ERROR,
        "images that show nothing, and no others",
        "nothing can be learnt from them",
        "look at them; set WHITE in detection/utils/bit_depth.py if files of more than 8 bits turn "
        "out too dark or too bright",
    ),
    "unused_bits": Kind(
        WARNING,
        "images of more than 8 bits, none of which uses the upper ones",
        "they are darker than they need be",
        "set WHITE in detection/utils/bit_depth.py, e.g. to 4095 for 12 bits in files of 16",
    ),
    "turned_by_exif": Kind(
        WARNING,
        "images that EXIF says to turn",
        "detectron2 turns them; boxes drawn by a tool that does not lie elsewhere",
        "save them upright, and look whether the boxes fit",
    ),
    "repeated_images": Kind(
        WARNING,
        "images with the content of another one of the split",
        "they weigh twice; boxes that differ contradict each other",
        "keep one",
        "keeps the one with the most annotations, unless predictions are due for them",
    ),
}
