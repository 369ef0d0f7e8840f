"""Every family of networks on scikit-learn's 1,797 handwritten digits (8x8; 1,437 to train on, 360 to test).

    python -m launch.train --config=configs/digits.py:resnet

The argument is a key of `NETWORKS`: linear, mlp, lenet, alexnet, vgg, googlenet, resnet, densenet, vit, hybrid,
autoencoder and others. Cost on two CPU cores, and test accuracy, measured: linear 12 s, 96.39 %; mlp 18 s, 98.61 %;
lenet 14 s, 100.00 %; resnet 18 s, 99.72 %; vit 58 s, 98.89 %; autoencoder 15 s, mean squared error 0.0091. One test
image is 0.28 %. The others were not measured.
"""

from ml_collections import ConfigDict

from vision.errors import pick

AUGMENT = "|translate(0.1)|rotate(10)|scale(0.9, 1.1)"

# Model, learning rate, epochs, and what happens to an image after decoding: each family in a form for small images.
NETWORKS = {
    "linear": (dict(name="linear"), 3e-3, 60, ""),
    "mlp": (dict(name="mlp", hidden=(128, 64), dropout=0.1), 2e-3, 60, ""),
    "lenet": (dict(name="lenet", activation="relu"), 2e-3, 40, "|resize(32)"),
    "lenet_1998": (dict(name="lenet_1998"), 2e-3, 40, "|resize(32)"),
    "alexnet": (dict(name="alexnet", form="small", width=0.25, hidden=(128,)), 1e-3, 40, "|resize(16)"),
    "overfeat": (dict(name="overfeat_fast", form="small", width=0.125, hidden=(128,)), 1e-3, 40, "|resize(32)"),
    "vgg": (dict(name="vgg11_bn", width=16, hidden=(128,), window=1), 1e-3, 20, "|resize(32)"),
    "googlenet": (
        dict(name="googlenet", small_images=True, width=0.125, repeats=1, auxiliary=False),
        3e-3,
        20,
        "|resize(16)",
    ),
    "inception_v3": (
        dict(name="inception_v3", small_images=True, width=0.125, repeats=1, auxiliary=False),
        2e-3,
        20,
        "|resize(16)",
    ),
    "inception_v4": (dict(name="inception_v4", small_images=True, width=0.125, repeats=1), 2e-3, 20, "|resize(16)"),
    "inception_resnet": (
        dict(name="inception_resnet_v2", small_images=True, width=0.125, repeats=2),
        2e-3,
        20,
        "|resize(16)",
    ),
    "plain": (dict(name="plain20"), 3e-3, 20, "|resize(16)"),
    "resnet": (dict(name="resnet", stage_sizes=(1, 1, 1), width=16, small_images=True), 3e-3, 40, "|resize(16)"),
    "resnet_v2": (
        dict(name="resnetv2_50x1_bit", stage_sizes=(1, 1, 1), width=32, small_images=True),
        2e-3,
        20,
        "|resize(16)",
    ),
    "densenet": (
        dict(name="densenet", block_sizes=(4, 4, 4), growth=12, small_images=True),
        3e-3,
        20,
        "|resize(16)",
    ),
    "vit": (dict(name="vit", patch_size=4, width=64, depth=4, heads=4), 1e-3, 80, "|resize(16)"),
    "hybrid": (
        dict(name="vit_tiny_r_s16_p8_224", root_stages=(1,), root_width=32, patch_size=1, width=64, depth=4, heads=4),
        1e-3,
        40,
        "|resize(32)",
    ),
    "autoencoder": (dict(name="autoencoder", hidden=(64,), latent=16), 2e-3, 80, ""),
}


def get_config(network: str = "resnet"):
    """The recipe for one family.

    Args:
        network: a key of `NETWORKS`.
    """
    model, learning_rate, epochs, resize = pick(NETWORKS, "network", network, "configs/digits.py")
    reconstructs = network == "autoencoder"
    augment = "" if reconstructs or network == "linear" else AUGMENT
    config = ConfigDict()
    config.seed = 0
    config.model = model
    config.task = dict(name="reconstruction" if reconstructs else "classification")
    config.data = dict(
        preprocess=dict(name="normalize" if reconstructs else "standardize"),
        train=dict(name="digits", split="train", batch_size=64, transforms=f"decode(channels=1){resize}{augment}"),
        eval=dict(
            test=dict(name="digits", split="test", batch_size=120, transforms=f"decode(channels=1){resize}"),
        ),
    )
    config.optimizer = dict(
        name="adamw", learning_rate=learning_rate, schedule="cosine", warmup="5%", weight_decay=1e-2, ema=0.99
    )
    config.train = dict(epochs=epochs)
    config.evaluate = dict(every="10%")
    config.checkpoint = dict(every="20%", keep=2)
    config.log = dict(every="20 steps")
    return config
