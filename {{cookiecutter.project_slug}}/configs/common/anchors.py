"""
The anchors of all models that have them; None: detectron2's. `make explore ARGS=--write-anchors`
fits them to the boxes of the training data and writes them here.

`sizes` are sides of squares in pixels of the resized image, one for each level of the pyramid, the
finest first; RetinaNet adds its two steps between them. `aspect_ratios` are heights over widths.
"""

anchors = dict(
    sizes=None,  # e.g. [32, 64, 128, 256, 512]
    aspect_ratios=None,  # e.g. [0.5, 1.0, 2.0]; pretrained weights fit three
)
