"""RetinaNet on ResNet-50, COCO 2017 (Lin et al. 2017, "Focal loss for dense object detection").

    python -m launch.train --config=configs/coco_retinanet.py

Data and weights as for `configs/coco_faster_rcnn.py`. Aimed at (torchvision's recipe, not measured here): AP 36.4 on
val2017.
"""

from configs import coco_faster_rcnn


def get_config():
    """The recipe."""
    config = coco_faster_rcnn.get_config()
    config.model.name = "retinanet_resnet50_fpn"
    config.task = dict(name="retinanet")
    config.optimizer.learning_rate = 0.01
    return config
