"""CIFAR-10 (Krizhevsky 2009): a ResNet-18 for small images, or a small ViT, trained from scratch.

    tfds build cifar10 --file_format=array_record          # once, where TensorFlow is installed
    python -m launch.train --config=configs/cifar10.py:resnet

Aimed at (published, not measured here): resnet about 95 % after 200 epochs (He et al. 2016 report 93.6 % for ResNet-110
with the same augmentation; ResNet-18 with this stem reaches 95 % in common re-implementations); vit about 90 %.
Cost: resnet 0.56 GMACs an image forward; 200 epochs of 50,000 images are about 1.7e16 multiply-adds: under an hour on
one current GPU.
"""

from ml_collections import ConfigDict

from vision.errors import pick

NETWORKS = {
    "resnet": dict(
        model=dict(name="resnet18", small_images=True),
        optimizer=dict(name="nesterov", momentum=0.9, learning_rate=0.1, schedule="cosine", warmup="5 epochs", l2=5e-4),
        augment="random_crop(32, padding=4)|flip",
    ),
    "vit": dict(
        model=dict(name="vit", variant="Ti", patch_size=4, pool="average", drop_path=0.1),
        optimizer=dict(
            name="adamw", learning_rate=1e-3, schedule="cosine", warmup="10 epochs", weight_decay=0.05, clip_norm=1.0
        ),
        augment="random_resized_crop(32, area=(0.5, 1.0))|flip|brightness(0.4)|contrast(0.4)|saturation(0.4)",
    ),
}


def get_config(network: str = "resnet"):
    """The recipe for one network.

    Args:
        network: "resnet" or "vit".
    """
    recipe = pick(NETWORKS, "network", network, "configs/cifar10.py")
    config = ConfigDict()
    config.seed = 0
    config.model = recipe["model"]
    config.task = dict(name="classification")
    config.data = dict(
        preprocess=dict(name="standardize", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        train=dict(name="cifar10", split="train", batch_size=128, transforms=f"decode|{recipe['augment']}"),
        eval=dict(test=dict(name="cifar10", split="test", batch_size=256, transforms="decode")),
    )
    config.optimizer = recipe["optimizer"]
    config.train = dict(epochs=200)
    config.evaluate = dict(every="5 epochs")
    config.checkpoint = dict(every="5 epochs", keep=2)
    config.log = dict(every="100 steps")
    return config
