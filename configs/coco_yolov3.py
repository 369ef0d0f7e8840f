"""YOLOv3 on Darknet-53, COCO 2017, images of 416 pixels (Redmon and Farhadi 2018).

    python -m launch.train --config=configs/coco_yolov3.py

Wants COCO as it is published at ../coco and Darknet-53's convolutions trained on ImageNet, a Darknet file, at
darknet53.conv.74. Aimed at (mmdetection's, not measured here): AP 30.9 on val2017; the paper has 31.0 on test-dev.
Cost: 33 GMACs an image forward; 273 epochs in batches of 64.
"""

from ml_collections import ConfigDict


def get_config():
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.model = dict(name="yolov3", dtype="bfloat16")
    config.init = dict(
        weights="darknet53.conv.74", head="new", allow_missing=(r"(params|batch_stats)/(?!backbone/).*",)
    )
    config.task = dict(name="yolov3")
    config.data = dict(
        preprocess=dict(name="normalize"),
        train=dict(
            name="coco:../coco",
            source=dict(annotations="boxes", empty=False),
            split="train",
            batch_size=64,
            transforms="decode|brightness(0.3)|contrast(0.3)|saturation(0.3)|hue(18)|expand(2.0)|random_iou_crop"
            "|letterbox(416, fill=127)|flip",
        ),
        eval=dict(
            val=dict(
                name="coco:../coco",
                source=dict(annotations="boxes"),
                split="val",
                batch_size=32,
                transforms="decode|letterbox(416, fill=127)",
            )
        ),
    )
    config.optimizer = dict(
        name="momentum",
        momentum=0.9,
        learning_rate=1e-3,
        schedule=dict(name="piecewise", boundaries=("218 epochs", "246 epochs"), factor=0.1),
        warmup="2000 steps",
        l2=5e-4,
        weight_decay=0.0,
        clip_norm=35.0,
    )
    config.train = dict(epochs=273)
    config.evaluate = dict(every="5 epochs")
    config.checkpoint = dict(every="5 epochs", keep=2)
    config.log = dict(every="50 steps")
    return config
