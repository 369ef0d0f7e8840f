"""Faster R-CNN with a feature pyramid on ResNet-50, COCO 2017 (Ren et al. 2015; Lin et al. 2017).

    python -m launch.train --config=configs/coco_faster_rcnn.py

Wants COCO as it is published at ../coco (train2017, val2017, annotations), or --config.data.train.name=coco:FOLDER and
--config.data.eval.val.name=coco:FOLDER, and torchvision's ResNet-50 at resnet50.safetensors.

Aimed at (torchvision's recipe, not measured here): box AP 37.0 on val2017. The stem, the first stage and all batch
norms stay as they are. Cost: 26 epochs of 117,266 images with objects in batches of 16, 190,000 steps; about a day on
eight V100s.
"""

from ml_collections import ConfigDict

RESNET = dict(weights="resnet50.safetensors", head="new", allow_missing=(r"(params|batch_stats)/(?!backbone/).*",))
IMAGENET = dict(name="standardize", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIZES = ((800, 1344), (1344, 800), (1344, 1344))


def get_config():
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.model = dict(name="fasterrcnn_resnet50_fpn", dtype="bfloat16")
    config.init = RESNET
    config.task = dict(name="rcnn")
    config.data = dict(
        preprocess=IMAGENET,
        train=dict(
            name="coco:../coco",
            source=dict(annotations="boxes", empty=False),
            split="train",
            batch_size=16,
            transforms=f"decode|flip|resize_within(800, 1333)|pad_to({SIZES})",
        ),
        eval=dict(
            val=dict(
                name="coco:../coco",
                source=dict(annotations="boxes"),
                split="val",
                batch_size=8,
                transforms=f"decode|resize_within(800, 1333)|pad_to({SIZES})",
            )
        ),
    )
    config.optimizer = dict(
        name="momentum",
        momentum=0.9,
        learning_rate=0.02,
        schedule=dict(name="piecewise", boundaries=("16 epochs", "22 epochs"), factor=0.1),
        warmup="1000 steps",
        l2=1e-4,
        weight_decay=0.0,
        rules=(
            (r"backbone/(conv_1|norm_1|stem|stage_1)/.*", dict(freeze=True)),
            (r"backbone/.*norm.*", dict(freeze=True)),
            (r".*", {}),
        ),
    )
    config.train = dict(epochs=26)
    config.evaluate = dict(every="1 epochs")
    config.checkpoint = dict(every="1 epochs", keep=2)
    config.log = dict(every="50 steps")
    return config
