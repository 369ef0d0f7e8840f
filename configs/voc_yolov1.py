"""YOLO, the first version, Pascal VOC 2007 and 2012 (Redmon et al. 2016).

    python -m launch.train --config=configs/voc_yolov1.py

Wants VOCdevkit/VOC2007 and VOCdevkit/VOC2012 as they are published, and the 20 convolutions trained on ImageNet, a
Darknet file, at extraction.conv.weights. Aimed at (not measured here): 63.4 mAP on VOC 2007's test images,
`test/voc07_mAP`. Cost: 20 GMACs an image forward; 135 epochs in batches of 64.
"""

from ml_collections import ConfigDict


def get_config():
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.model = dict(name="yolov1", dtype="bfloat16")
    config.init = dict(
        weights="extraction.conv.weights", head="new", allow_missing=(r"(params|batch_stats)/(?!backbone/).*",)
    )
    config.task = dict(name="yolov1")
    config.data = dict(
        preprocess=dict(name="normalize"),
        train=dict(
            name="voc:VOCdevkit/VOC2007",
            source=dict(also=("VOCdevkit/VOC2012",), empty=False),
            split="trainval",
            batch_size=64,
            # Section 2.2: scaling and translations of up to 20 %, exposure and saturation by up to 1.5.
            transforms="decode|resize(448)|scale(0.8, 1.2)|translate(0.2)|flip|brightness(0.33)|saturation(0.33)",
        ),
        eval=dict(
            test=dict(
                name="voc:VOCdevkit/VOC2007", source={}, split="test", batch_size=64, transforms="decode|resize(448)"
            )
        ),
    )
    # Section 2.2: 1e-2 for 75 epochs after a slow start, 1e-3 for 30, 1e-4 for 30.
    config.optimizer = dict(
        name="momentum",
        momentum=0.9,
        learning_rate=1e-2,
        schedule=dict(name="piecewise", boundaries=("75 epochs", "105 epochs"), factor=0.1),
        warmup="2 epochs",
        l2=5e-4,
        weight_decay=0.0,
    )
    config.train = dict(epochs=135)
    config.evaluate = dict(every="5 epochs")
    config.checkpoint = dict(every="5 epochs", keep=2, best="test/voc07_mAP")
    config.log = dict(every="20 steps")
    return config
