"""Semantic segmentation of the embedded scenes of handwritten digits: the classic networks in small forms.

    python -m launch.train --config=configs/segment.py:fcn8s

2,000 scenes of 96x96 pixels to train on, 500 to test, 11 classes with the background. The argument is one of fcn32s,
fcn16s, fcn8s, deconvnet, segnet, unet; the three FCNs have the same trunk and are trained alike, so that what differs
is the stride of the finest map that is scored.

Cost: eight minutes of CPU time for an FCN, 18 to 25 for the others. Measured on the test scenes, boundary F1 and mean
IoU: fcn32s 0.092 and 0.151, fcn16s 0.284 and 0.422, fcn8s 0.384 and 0.471; on those of 96x96 pixels unet 0.584 and
0.648, segnet 0.347 and 0.403, deconvnet 0.139 and 0.118. Through a decoder it takes 700 to 1,500 steps until digits
that were found are told apart; deconvnet only begins to in its 2,000.
"""

from ml_collections import ConfigDict

from vision.errors import pick

FCN = dict(
    stage_sizes=(1, 1, 2, 2, 2),
    width=8,
    hidden=128,
    window=3,
    padding=1,
    batch_norm=True,
    learned="skips",
    dropout=0.1,
)
MIRRORED = dict(stage_sizes=(1, 1, 2, 2), width=12, norm="group")
# Scenes, and how they are cropped to train on. FCNs see them enlarged, so that the strokes of digits are a few places
# wide on maps of stride 8. They look the same way everywhere, so they learn from crops and see whole scenes in the
# test.
ENLARGED, AS_THEY_ARE = ("decode|resize(192)", "|random_crop(96)"), ("decode", "")

# Model, scenes, learning rate, epochs: through a decoder it takes longer until digits are told apart.
NETWORKS = {
    "fcn32s": (dict(name="fcn32s", **FCN), ENLARGED, 2e-3, 16),
    "fcn16s": (dict(name="fcn16s", **FCN), ENLARGED, 2e-3, 16),
    "fcn8s": (dict(name="fcn8s", **FCN), ENLARGED, 2e-3, 16),
    "deconvnet": (dict(name="deconvnet", hidden=128, window=3, **MIRRORED), AS_THEY_ARE, 4e-3, 16),
    "segnet": (dict(name="segnet", **MIRRORED), AS_THEY_ARE, 4e-3, 24),
    "unet": (dict(name="unet", width=8, depth=3, patch_size=2, norm="group"), AS_THEY_ARE, 4e-3, 24),
}


def get_config(network: str = "unet"):
    """The recipe for one network.

    Args:
        network: a key of `NETWORKS`.
    """
    model, (scenes, crop), learning_rate, epochs = pick(NETWORKS, "network", network, "configs/segment.py")
    config = ConfigDict()
    config.seed = 0
    config.model = model
    vary = f"|scale(0.9, 1.1)|rotate(10){crop}|brightness(0.2)|contrast(0.2)"
    # Nine pixels of ten are background.
    config.task = dict(name="segmentation", dice=1.0, class_weights=(0.2, *(1.0,) * 10))
    config.data = dict(
        preprocess=dict(name="standardize"),
        train=dict(name="digit_scenes", split="train", batch_size=16, transforms=scenes + vary),
        eval=dict(test=dict(name="digit_scenes", split="test", batch_size=20, transforms=scenes)),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=learning_rate,
        schedule="cosine",
        warmup="5%",
        weight_decay=1e-2,
        clip_norm=1.0,
        ema=0.995,
    )
    config.train = dict(epochs=epochs)
    config.evaluate = dict(every="25%")
    config.checkpoint = dict(every="50%", keep=1)
    config.log = dict(every="25 steps")
    return config
