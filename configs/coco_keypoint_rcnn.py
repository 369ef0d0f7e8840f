"""Keypoint R-CNN with a feature pyramid on ResNet-50, the people of COCO 2017 (He et al. 2017, section 5).

    python -m launch.train --config=configs/coco_keypoint_rcnn.py

As `configs/coco_faster_rcnn.py`, with one class and the 17 key points of a person, images of several sizes and a longer
schedule. Aimed at (torchvision's recipe, not measured here): box AP 54.6 and key point AP 65.0 on val2017.
"""

from configs import coco_faster_rcnn

# Left and right eye, ear, shoulder, elbow, wrist, hip, knee and ankle change places in a mirror.
SWAP = tuple((left, left + 1) for left in range(1, 17, 2))


def get_config():
    """The recipe."""
    config = coco_faster_rcnn.get_config()
    config.model.name = "keypointrcnn_resnet50_fpn"
    sizes = coco_faster_rcnn.SIZES
    for section in (config.data.train, config.data.eval.val):
        section.source.annotations = "keypoints"
    config.data.train.transforms = (
        f"decode|flip(swap={SWAP})|random_resize_within((640, 672, 704, 736, 768, 800), 1333)|pad_to({sizes})"
    )
    config.optimizer.schedule.boundaries = ("36 epochs", "43 epochs")
    config.train.epochs = 46
    return config
