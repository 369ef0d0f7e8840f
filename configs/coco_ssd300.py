"""SSD300 on VGG-16, COCO 2017 (Liu et al. 2016).

    python -m launch.train --config=configs/coco_ssd300.py

Wants COCO as it is published at ../coco and torchvision's VGG-16 at vgg16.safetensors, whose dense layers are thinned
out into convolutions. Aimed at (not measured here): AP 25.1 on val2017, the paper's and torchvision's. Cost: 31 GMACs
an image forward; 120 epochs in batches of 32.
"""

from ml_collections import ConfigDict

VGG = dict(weights="vgg16.safetensors", head="new", allow_missing=(r"params/(?!backbone/).*",))
IMAGENET = dict(name="standardize", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
COLOUR = "brightness(0.125)|contrast(0.5)|saturation(0.5)|hue(18)"


def get_config():
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.model = dict(name="ssd300_vgg16", dtype="bfloat16")
    config.init = VGG
    config.task = dict(name="ssd")
    config.data = dict(
        preprocess=IMAGENET,
        train=dict(
            name="coco:../coco",
            source=dict(annotations="boxes", empty=False),
            split="train",
            batch_size=32,
            transforms=f"decode|{COLOUR}|expand|random_iou_crop|resize(300)|flip",
        ),
        eval=dict(
            val=dict(
                name="coco:../coco",
                source=dict(annotations="boxes"),
                split="val",
                batch_size=32,
                transforms="decode|resize(300)",
            )
        ),
    )
    config.optimizer = dict(
        name="momentum",
        momentum=0.9,
        learning_rate=2e-3,
        schedule=dict(name="piecewise", boundaries=("80 epochs", "110 epochs"), factor=0.1),
        warmup="1000 steps",
        l2=5e-4,
        weight_decay=0.0,
    )
    config.train = dict(epochs=120)
    config.evaluate = dict(every="5 epochs")
    config.checkpoint = dict(every="5 epochs", keep=2)
    config.log = dict(every="50 steps")
    return config
