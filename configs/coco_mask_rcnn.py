"""Mask R-CNN with a feature pyramid on ResNet-50, COCO 2017 (He et al. 2017).

    python -m launch.train --config=configs/coco_mask_rcnn.py

As `configs/coco_faster_rcnn.py`, with masks. Aimed at (torchvision's recipe, not measured here): box AP 37.9 and mask
AP 34.6 on val2017. Cost: a fifth more than Faster R-CNN.
"""

from configs import coco_faster_rcnn


def get_config():
    """The recipe."""
    config = coco_faster_rcnn.get_config()
    config.model.name = "maskrcnn_resnet50_fpn"
    config.data.train.source.annotations = "masks"
    config.data.eval.val.source.annotations = "masks"
    return config
