"""FCN on Pascal VOC 2012 (Long et al. 2015): a classifier's published weights, then dense prediction of 21 classes.

    python -m launch.train --config=configs/voc_fcn.py:fcn8s

Wants VOCdevkit/VOC2012 as it is published (JPEGImages, SegmentationClass, ImageSets/Segmentation) and torchvision's
weights at vgg16.safetensors or resnet50.safetensors, or --config.init.weights=FILE. The argument is one of fcn32s,
fcn16s, fcn8s, fcn_resnet50, deeplabv3_resnet50.

Aimed at (published, not measured here), mean IoU on VOC's validation images: fcn32s 63.6, fcn16s 65.0, fcn8s 65.5 (the
authors' released models on seg11valid, trained with SBD's extra annotations; the paper has 59.4, 62.4 and 62.7),
fcn_resnet50 67.1 and deeplabv3_resnet50 76.2 (mmsegmentation, VOC 2012 augmented, 20,000 steps of 16). With VOC's own
1,464 training images alone expect some points less. Cost: fcn8s 111 GMACs an image of 512x512 forward; 60
epochs are 88,000 images: about six hours on one V100.
"""

from ml_collections import ConfigDict

from vision.errors import pick

VGG = dict(weights="vgg16.safetensors", head="new", allow_missing=(r"params/(score|upsample)_.*",))
RESNET = dict(weights="resnet50.safetensors", head="new", allow_missing=(r"(params|batch_stats)/(?!backbone/).*",))

# Model, and the classifier's weights that its trunk starts from.
RECIPES = {
    "fcn32s": (dict(name="fcn32s"), VGG | dict(allow_missing=())),
    "fcn16s": (dict(name="fcn16s", learned="skips"), VGG),
    "fcn8s": (dict(name="fcn8s", learned="skips"), VGG),
    "fcn_resnet50": (dict(name="fcn_resnet50"), RESNET),
    "deeplabv3_resnet50": (dict(name="deeplabv3_resnet50"), RESNET),
}
VOC = dict(
    images="JPEGImages/*.jpg",
    masks="SegmentationClass/*.png",
    lists="ImageSets/Segmentation/{split}.txt",
    mask="palette",
    classes=(
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    ),
)


def get_config(recipe: str = "fcn8s"):
    """One recipe.

    Args:
        recipe: a key of `RECIPES`.
    """
    model, init = pick(RECIPES, "recipe", recipe, "configs/voc_fcn.py")
    data = dict(name="pairs:VOCdevkit/VOC2012", source=VOC)
    config = ConfigDict()
    config.seed = 0
    config.model = dict(model, dtype="bfloat16")
    config.init = init
    config.task = dict(name="segmentation")
    config.data = dict(
        preprocess=dict(name="standardize", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        train=dict(
            **data,
            split="train",
            batch_size=16,
            transforms="decode|scale_jitter(0.5, 2.0)|random_crop(512, pad_smaller=True)|flip",
        ),
        eval=dict(val=dict(**data, split="val", batch_size=8, transforms="decode|pad_to(((512, 512),))")),
    )
    config.optimizer = dict(
        name="momentum",
        momentum=0.9,
        learning_rate=1e-2,
        schedule=dict(name="polynomial", power=0.9),
        warmup="2%",
        weight_decay=0.0,
        l2=5e-4,
        clip_norm=10.0,
    )
    config.train = dict(epochs=60)
    config.evaluate = dict(every="5 epochs")
    config.checkpoint = dict(every="5 epochs", keep=1)
    config.log = dict(every="20 steps")
    return config
