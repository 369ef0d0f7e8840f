"""Faster R-CNN on VGG-16 as first published, Pascal VOC 2007 (Ren et al. 2015, sections 3.3 and 4.1).

    python -m launch.train --config=configs/voc_faster_rcnn_vgg16.py

Wants VOCdevkit/VOC2007 as it is published and torchvision's VGG-16 at vgg16.safetensors. Region proposals and detector
learn together. Aimed at (not measured here): 69.9 mAP on the test images, `test/voc07_mAP` (71.2 in re-implementations
that learn jointly); 73.2 with --config.data.train.source.also="('VOCdevkit/VOC2012',)" and twice the steps.
"""

from ml_collections import ConfigDict

VGG = dict(weights="vgg16.safetensors", head="new", allow_missing=(r"params/(rpn|box_head/head)/.*",))
IMAGENET = dict(name="standardize", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIZES = ((608, 1008), (1008, 608), (1008, 1008))


def get_config():
    """The recipe."""
    transforms = f"resize_within(600, 1000)|pad_to({SIZES})"
    config = ConfigDict()
    config.seed = 0
    config.model = dict(name="fasterrcnn_vgg16", dtype="bfloat16")
    config.init = VGG
    config.task = dict(name="rcnn", beta=1.0)
    config.data = dict(
        preprocess=IMAGENET,
        train=dict(
            name="voc:VOCdevkit/VOC2007",
            source=dict(empty=False),
            split="trainval",
            batch_size=1,
            transforms=f"decode|flip|{transforms}",
        ),
        eval=dict(
            test=dict(
                name="voc:VOCdevkit/VOC2007", source={}, split="test", batch_size=1, transforms=f"decode|{transforms}"
            )
        ),
    )
    config.optimizer = dict(
        name="momentum",
        momentum=0.9,
        learning_rate=1e-3,
        schedule=dict(name="piecewise", boundaries=("50000 steps",), factor=0.1),
        l2=5e-4,
        weight_decay=0.0,
        # The first two stages stay as they are, as in the authors' code.
        rules=((r"backbone/stage_[12]/.*", dict(freeze=True)), (r".*", {})),
    )
    config.train = dict(steps=70_000)
    config.evaluate = dict(every="10000 steps")
    config.checkpoint = dict(every="10000 steps", keep=2, best="test/voc07_mAP")
    config.log = dict(every="50 steps")
    return config
