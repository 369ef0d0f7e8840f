"""Classification and localisation of one handwritten digit in a 96x96 scene: a box regressor beside a classifier.

    python -m launch.train --config=configs/localize.py

2,000 scenes to train on, 500 to test, prepared on first use. The argument is one of shared (a box for all classes),
per_class (one for each) and giou (the shared one, learnt by generalised IoU).

Measured, of the 500 test scenes with `shared`: 0.992 of the boxes above an IoU of 0.5 (`test/localization_accuracy`),
0.592 of the classes right, both 0.586; eight minutes on two CPU cores. The others were not trained to the end.
"""

from ml_collections import ConfigDict

from vision.errors import pick

# What differs of the model, and of the task.
NETWORKS = {
    "shared": ({}, {}),
    "per_class": (dict(per_class=True), {}),
    "giou": ({}, dict(box_loss="giou", box_weight=1.0)),
}
AUGMENT = "|scale(0.8, 1.25)|translate(0.15)|brightness(0.2)|contrast(0.2)"
SCENES = dict(name="digit_scenes", source=dict(annotations="boxes", objects="one"))


def get_config(network: str = "shared"):
    """The recipe.

    Args:
        network: a key of `NETWORKS`.
    """
    model, task = pick(NETWORKS, "network", network, "configs/localize.py")
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        name="localizer",
        backbone=dict(name="resnet", stage_sizes=(1, 1, 1), width=24),
        window=6,
        hidden=(128,),
        **model,
    )
    config.task = dict(name="localization", **task)
    config.data = dict(
        preprocess=dict(name="standardize"),
        train=dict(split="train", batch_size=32, transforms="decode" + AUGMENT, **SCENES),
        eval=dict(test=dict(split="test", batch_size=50, transforms="decode", **SCENES)),
    )
    config.optimizer = dict(
        name="adamw", learning_rate=2e-3, schedule="cosine", warmup="5%", weight_decay=1e-2, ema=0.99, clip_norm=1.0
    )
    config.train = dict(epochs=40)
    config.evaluate = dict(every="10%")
    config.checkpoint = dict(every="20%", keep=1)
    config.log = dict(every="20 steps")
    return config
