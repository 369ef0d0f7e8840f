"""Autoencoders on scikit-learn's handwritten digits, enlarged to 16x16: dense, convolutional, denoising, masked.

    python -m launch.train --config=configs/autoencode.py:denoising

The argument is one of dense, conv, denoising, mae. Measured on the 360 test images, as peak signal-to-noise ratio:
dense 25.2 dB, conv 30.2 dB, mae 16.1 dB of what is hidden; denoising brings 14.4 dB to 24.2 dB, and its
`plots/reconstructions.png` shows noisy, restored and clean images side by side. Cost: one to three minutes of CPU time.
"""

from ml_collections import ConfigDict

from vision.errors import pick

CONV = dict(name="conv_autoencoder", stage_sizes=(1, 1, 1), width=16, latent=8)
MAE = dict(name="mae", patch_size=2, width=48, depth=3, heads=4, decoder_width=32, decoder_depth=1, decoder_heads=4)

# Model, learning rate, epochs, and what happens to an image behind its resizing.
NETWORKS = {
    "dense": (dict(name="autoencoder", hidden=(128,), latent=16), 2e-3, 60, ""),
    "conv": (CONV, 3e-3, 30, ""),
    "denoising": (CONV | dict(latent=32), 3e-3, 30, "|keep_clean|noise(60)"),
    "mae": (MAE, 3e-3, 30, ""),
}


def get_config(network: str = "denoising"):
    """The recipe for one autoencoder.

    Args:
        network: a key of `NETWORKS`.
    """
    model, learning_rate, epochs, damage = pick(NETWORKS, "network", network, "configs/autoencode.py")
    transforms = f"decode(channels=1)|resize(16){damage}"
    config = ConfigDict()
    config.seed = 0
    config.model = model
    config.task = dict(name="reconstruction")
    config.data = dict(
        preprocess=dict(name="normalize"),
        train=dict(name="digits", split="train", batch_size=64, transforms=transforms),
        eval=dict(test=dict(name="digits", split="test", batch_size=120, transforms=transforms)),
    )
    config.optimizer = dict(
        name="adamw", learning_rate=learning_rate, schedule="cosine", warmup="5%", weight_decay=1e-2, ema=0.99
    )
    config.train = dict(epochs=epochs)
    config.evaluate = dict(every="10%")
    config.checkpoint = dict(every="50%", keep=1)
    config.log = dict(every="20 steps")
    return config
