"""Detectors on the embedded scenes of handwritten digits: the published systems on small backbones.

    python -m launch.train --config=configs/detect.py:faster_rcnn

2,000 scenes of 96x96 pixels to train on, 500 to test, with 1 to 8 digits each, 14 to 44 pixels high and partly hidden
by others. The argument is a key of `NETWORKS`: ssd, yolo (version 1), yolov3, faster_rcnn, mask_rcnn, retinanet.

Cost: 16 to 26 minutes of CPU time, half of that on two free cores; for yolo six. Measured on the test scenes, AP50:
mask_rcnn 0.921 (of its masks 0.858), ssd 0.921, yolov3 0.915, faster_rcnn 0.912, retinanet 0.909, yolo 0.814.
"""

from ml_collections import ConfigDict

from vision.errors import pick

RESNET = dict(name="resnet", width=16, stage_sizes=(2, 2, 2))  # features of strides 4, 8 and 16
ANCHORS = ((14, 17), (18, 24), (24, 30), (28, 36), (36, 36), (36, 48))

TWO_STAGE = dict(
    backbone=RESNET,
    strides=(4, 8, 16),
    channels=32,
    anchor_sizes=((12,), (20,), (32,), (52,)),
    anchor_ratios=(1.0, 1.6),
    rpn_samples=64,
    before_nms=(200, 100),
    proposals=(64, 64),
    canonical_size=64.0,
    roi_samples=32,
    roi_positives=0.5,
    box_hidden=(128,),
    score_threshold=0.01,
    max_detections=32,
)

# Digits have no mirror image; boxes and masks move with the image.
AUGMENT = (
    "decode|scale(0.7, 1.0)|random_resized_crop(96, area=(0.55, 1.0), ratio=(0.75, 1.3333))"
    "|brightness(0.3)|contrast(0.3)|saturation(0.5)"
)

# Model, task, learning rate, epochs.
NETWORKS = {
    "ssd": (
        dict(
            name="ssd",
            backbone=RESNET | dict(width=24, drop_path=0.1),
            strides=(4, 8, 16),
            extra=(),
            scales=(0.14, 0.22, 0.35, 0.5),
            aspect_ratios=((1.6,),),
        ),
        dict(name="ssd", candidates=100, detections=100),
        3e-3,
        50,
    ),
    "yolo": (
        dict(
            name="yolov1",
            backbone=RESNET | dict(stage_sizes=(2, 2)),
            stride=8,
            grid=12,
            convolutions=(96,),
            hidden=(),
            batch_norm=True,
        ),
        dict(name="yolov1"),
        3e-3,
        20,
    ),
    "yolov3": (
        dict(name="yolov3", backbone=RESNET, strides=(4, 8, 16), anchors=ANCHORS, width=16),
        dict(name="yolov3", box_weight=1.5, class_weight=3.0),  # one anchor of an object learns its class: few examples
        4e-3,
        48,
    ),
    "retinanet": (
        dict(
            name="retinanet",
            backbone=RESNET,
            strides=(4, 8, 16),
            extra="none",
            channels=32,
            depth=2,
            head_norm="group",
            sizes=(12.0, 18.0, 30.0),
            scales=(1.0, 2**0.5),
            aspect_ratios=(1.0, 1.7),
        ),
        dict(name="retinanet"),
        4e-3,
        45,
    ),
    "faster_rcnn": (dict(name="faster_rcnn", **TWO_STAGE), dict(name="rcnn"), 2e-3, 30),
    "mask_rcnn": (
        dict(name="mask_rcnn", mask_size=7, mask_convolutions=(32, 32), **TWO_STAGE),
        dict(name="rcnn"),
        2e-3,
        28,
    ),
}


def get_config(network: str = "faster_rcnn"):
    """The recipe for one detector.

    Args:
        network: a key of `NETWORKS`.
    """
    model, task, learning_rate, epochs = pick(NETWORKS, "network", network, "configs/detect.py")
    source = dict(annotations="masks" if network == "mask_rcnn" else "boxes")
    config = ConfigDict()
    config.seed = 0
    config.model = model
    config.task = task
    config.data = dict(
        preprocess=dict(name="standardize"),
        train=dict(name="digit_scenes", source=source, split="train", batch_size=8, transforms=AUGMENT),
        eval=dict(test=dict(name="digit_scenes", source=source, split="test", batch_size=50, transforms="decode")),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=learning_rate,
        schedule="cosine",
        warmup="5%",
        weight_decay=5e-2,
        clip_norm=10.0,
        ema=0.998,
    )
    config.train = dict(epochs=epochs)
    config.evaluate = dict(every="20%")
    config.checkpoint = dict(every="20%", keep=1, best="test/AP")
    config.log = dict(every="25 steps")
    return config
