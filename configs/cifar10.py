"""CIFAR-10 (Krizhevsky 2009): every family of networks in its form for images of 32 pixels, trained from scratch.

    tfds build cifar10 --file_format=array_record          # once, where TensorFlow is installed
    python -m launch.train --config=configs/cifar10.py:resnet

Aimed at (published errors in per cent, not measured here): resnet20 8.75, resnet56 6.97, resnet110 6.43 (He et al.
2016, table 6), densenet 4.51 (Huang et al. 2017, table 2: DenseNet-BC-100-12), wide_resnet 4.00 (Zagoruyko and
Komodakis 2016, table 5), resnet about 5 (ResNet-18 with this stem in common re-implementations). The others have no
published result in this form. Cost: resnet 0.56 GMACs an image forward; 200 epochs of 50,000 images are about 1.7e16
multiply-adds: under an hour on one current GPU. resnet20 has 0.04, densenet 0.29, wide_resnet 5.2 GMACs.
"""

from ml_collections import ConfigDict

from vision.errors import pick

AUGMENT = "random_crop(32, padding=4)|flip"
STRONG = "random_resized_crop(32, area=(0.5, 1.0))|flip|brightness(0.4)|contrast(0.4)|saturation(0.4)"

# He et al. 2016, section 4.2, with a cosine schedule.
SGD = dict(name="nesterov", momentum=0.9, learning_rate=0.1, schedule="cosine", warmup="5 epochs", l2=5e-4)
SLOW_SGD = dict(SGD, learning_rate=0.01)  # for networks without norms
ADAMW = dict(name="adamw", learning_rate=1e-3, schedule="cosine", warmup="10 epochs", weight_decay=0.05, clip_norm=1.0)

# Model, optimiser and what happens to an image after decoding: each family in a form for images of 32 pixels.
NETWORKS = {
    "linear": (dict(name="linear"), SLOW_SGD, "flip"),
    "mlp": (dict(name="mlp", hidden=(1024, 512), dropout=0.2, batch_norm=True), ADAMW, AUGMENT),
    "lenet": (dict(name="lenet", activation="relu"), ADAMW, AUGMENT),
    "alexnet": (dict(name="alexnet", form="small", hidden=(1024,)), SLOW_SGD, AUGMENT),
    "overfeat": (dict(name="overfeat_fast", form="small", width=0.5, hidden=(1024,)), SLOW_SGD, AUGMENT),
    "vgg": (dict(name="vgg16_bn", hidden=(512,), window=1), SGD, AUGMENT),
    "googlenet": (dict(name="googlenet", small_images=True, auxiliary=False), SGD, AUGMENT),
    "inception_v3": (dict(name="inception_v3", small_images=True, width=0.5, auxiliary=False), SGD, AUGMENT),
    "inception_v4": (dict(name="inception_v4", small_images=True, width=0.5), SGD, AUGMENT),
    "inception_resnet": (dict(name="inception_resnet_v2", small_images=True, width=0.5), SGD, AUGMENT),
    "plain": (dict(name="plain20"), SGD, AUGMENT),
    "resnet20": (dict(name="resnet20"), SGD, AUGMENT),
    "resnet56": (dict(name="resnet56"), SGD, AUGMENT),
    "resnet110": (dict(name="resnet110"), SGD, AUGMENT),
    "resnet": (dict(name="resnet18", small_images=True), SGD, AUGMENT),
    "wide_resnet": (dict(name="wide_resnet28_10"), SGD, AUGMENT),
    "resnet_v2": (dict(name="resnetv2_50x1_bit", small_images=True), SGD, AUGMENT),
    # Huang et al. 2017, section 3, "Implementation Details": DenseNet-BC-100-12.
    "densenet": (dict(name="densenet", block_sizes=(16, 16, 16), growth=12, small_images=True), SGD, AUGMENT),
    "vit": (dict(name="vit", variant="Ti", patch_size=4, pool="average", drop_path=0.1), ADAMW, STRONG),
    "hybrid": (dict(name="vit_tiny_r_s16_p8_224", root_stages=(2,), patch_size=1, pool="average"), ADAMW, STRONG),
}


def get_config(network: str = "resnet"):
    """The recipe for one network.

    Args:
        network: a key of `NETWORKS`.
    """
    model, optimizer, augment = pick(NETWORKS, "network", network, "configs/cifar10.py")
    config = ConfigDict()
    config.seed = 0
    config.model = model
    config.task = dict(name="classification")
    config.data = dict(
        preprocess=dict(name="standardize", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        train=dict(name="cifar10", split="train", batch_size=128, transforms=f"decode|{augment}"),
        eval=dict(test=dict(name="cifar10", split="test", batch_size=256, transforms="decode")),
    )
    config.optimizer = optimizer
    config.train = dict(epochs=200)
    config.evaluate = dict(every="5 epochs")
    config.checkpoint = dict(every="5 epochs", keep=2)
    config.log = dict(every="100 steps")
    return config
