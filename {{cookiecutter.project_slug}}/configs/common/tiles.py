"""
Tiles, for small objects in large images: `tiles.enabled=True`, in training, evaluation and
`predict.py`. `make explore` says whether they are likely to help, and of which size.
"""

tiles = dict(
    enabled=False,
    # pixels of the image. The loader's resizing applies to a tile as to an image: at 640, and a
    # `short_edge_length` of 1024, objects look 1.6 times as large as they are
    size=640,
    overlap=0.2,  # of neighbours, as a part of `size`: more than the small objects need
    full_image=True,  # look at, and train on, the whole image too, for large objects
    # training
    min_visibility=0.25,  # drop boxes of which a smaller part is in the tile
    empty_rate=0.1,  # the part of all tiles without objects that each epoch draws
    # evaluation and prediction
    iou_threshold=0.5,  # detections are one object if they agree in what two tiles both show
    max_per_image=100,  # the best ones are kept; predict.py has --max-per-image
    batch_size=4,  # tiles that go through the model together
)
