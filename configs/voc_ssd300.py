"""SSD300 on VGG-16, Pascal VOC 2007 and 2012 (Liu et al. 2016, section 3.1).

    python -m launch.train --config=configs/voc_ssd300.py

Wants VOCdevkit/VOC2007 and VOCdevkit/VOC2012 as they are published, and torchvision's VGG-16 at vgg16.safetensors. As
`configs/coco_ssd300.py`, in 120,000 steps. Aimed at (the paper's, with expansion; not measured here): 77.2 mAP on VOC
2007's test images, `test/voc07_mAP`.
"""

from configs import coco_ssd300


def get_config():
    """The recipe."""
    config = coco_ssd300.get_config()
    config.model.scales = (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075)  # section 3.1, with conv4_3's 0.1
    config.data.train.update(name="voc:VOCdevkit/VOC2007", split="trainval", batch_size=32)
    config.data.train.source = dict(also=("VOCdevkit/VOC2012",))  # in place of COCO's options
    config.data.eval = dict(
        test=dict(name="voc:VOCdevkit/VOC2007", source={}, split="test", batch_size=32, transforms="decode|resize(300)")
    )
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule.boundaries = ("80000 steps", "100000 steps")
    config.train = dict(steps=120_000)
    config.checkpoint.best = "test/voc07_mAP"
    return config
