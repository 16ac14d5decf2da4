"""Where the data is. Nothing here imports torch, so that tools for the data start at once."""

from detection.utils.paths import DATASETS

IMAGE_ROOT = DATASETS  # `image_root` + `file_name` of the json = the image; f"{DATASETS}/images" …

dataset = dict(
    fold=None,  # k: train and val are `folds`/<k>/*.json, and the output directory ends in _fold<k>
    folds=f"{DATASETS}/folds",  # from `make split`
    train=dict(name="train", json_file=f"{DATASETS}/train.json", image_root=IMAGE_ROOT),
    val=dict(name="val", json_file=f"{DATASETS}/val.json", image_root=IMAGE_ROOT),
    # additional training images, e.g. test images with labels from tools/pseudo_label.py
    pseudo=dict(name="pseudo", json_file=None, image_root=IMAGE_ROOT),
)
