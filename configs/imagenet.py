"""ImageNet-1k (Russakovsky et al. 2015): the 90-epoch recipes of ResNet-50 and ViT-S/16.

    tfds build imagenet2012 --file_format=array_record     # once, where TensorFlow is installed; needs the archives
    python -m launch.train --config=configs/imagenet.py:resnet50
    python -m launch.train --config=configs/imagenet.py:vit_s16

Aimed at (published, not measured here), top-1 on the 50,000 validation images at 224 px, one central crop:
resnet50 76.1 % (torchvision's V1 weights; Goyal et al. 2017 report 76.3 %), vit_s16 76.5 % (Beyer et al. 2022, "Better
plain ViT baselines", 90 epochs; their recipe adds RandAugment and MixUp, which this one leaves out).
Cost: 4.1 and 4.6 GMACs an image forward; 90 epochs are 1.15e8 images: about a day on 8 V100, half a day on a TPU v3-8.
"""

from ml_collections import ConfigDict

from vision.errors import pick

RECIPES = {
    "resnet50": dict(
        model=dict(name="resnet50", zero_init_residual=True, dtype="bfloat16"),
        # Goyal et al. 2017: 0.1 for every 256 images, five epochs of warm-up, divided by ten three times.
        optimizer=dict(
            name="nesterov",
            momentum=0.9,
            learning_rate=0.4,
            schedule=dict(name="piecewise", boundaries=("30 epochs", "60 epochs", "80 epochs"), factor=0.1),
            warmup="5 epochs",
            l2=1e-4,
        ),
        augment="decode|random_resized_crop(224)|flip",
        evaluate="decode|resize_small(256)|central_crop(224)",
    ),
    "vit_s16": dict(
        # Beyer et al. 2022: sin-cos positions, average pooling, 10,000 steps of warm-up, decay 1e-4 not times the rate.
        model=dict(name="vit_s16", positions="sincos", pool="average", dtype="bfloat16"),
        optimizer=dict(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            warmup="10000 steps",
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        augment="decode|random_resized_crop(224, area=(0.05, 1.0))|flip",
        evaluate="decode|resize_small(256)|central_crop(224)",
    ),
}


def get_config(recipe: str = "resnet50"):
    """One recipe.

    Args:
        recipe: "resnet50" or "vit_s16".
    """
    chosen = pick(RECIPES, "recipe", recipe, "configs/imagenet.py")
    config = ConfigDict()
    config.seed = 0
    config.model = chosen["model"]
    config.task = dict(name="classification", label_smoothing=0.1 if recipe == "resnet50" else 0.0)
    config.data = dict(
        preprocess=dict(name="standardize", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        train=dict(name="imagenet2012", split="train", batch_size=1024, transforms=chosen["augment"]),
        eval=dict(
            val=dict(name="imagenet2012", split="validation", batch_size=1024, transforms=chosen["evaluate"]),
        ),
    )
    config.optimizer = chosen["optimizer"]
    config.train = dict(epochs=90)
    config.evaluate = dict(every="1 epochs")
    config.checkpoint = dict(every="1 epochs", keep=2)
    config.log = dict(every="50 steps")
    return config
