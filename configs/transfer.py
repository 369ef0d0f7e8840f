"""Published weights on your own photographs: a new head, the last stage, or the whole network.

    python -m launch.train --config=configs/transfer.py:finetune --config.data.train.name=folder:photos \\
        --config.data.eval.test.name=folder:photos --config.init.weights=resnet50.safetensors

`photos/CLASS/*.jpg` is split by a hash of the file names, four fifths to train on. The weights are torchvision's
(`.safetensors` or `.pth`), or a run folder of this project; images are prepared as they expect. The argument is one of

    frozen      ResNet-50, its weights as they are, batch norms with their stored statistics; only a new head learns
    last_stage  ResNet-50, the fourth stage and a new head learn
    finetune    ResNet-50, everything learns, each block at 0.8 of the rate of the next
    vit         ViT-B/16 at 384 pixels, its position embeddings resampled from those of 224; rates as above

Cost, of ResNet-50: 4.1 GMACs an image forward; on two CPU cores a step of `frozen` takes a fifth, and one of
`last_stage` a quarter, of a step of `finetune` (measured, batches of 8), for no gradient enters what is frozen.
Expected: it depends on the photographs; with a few hundred a class `finetune` is best, with a dozen `frozen` may be.

The same features for a classifier of scikit-learn: python -m launch.features --config=configs/transfer.py:frozen
--probe=logistic, with the same flags.
"""

from ml_collections import ConfigDict

from vision.errors import pick

RESNET, VIT = dict(name="resnet50"), dict(name="vit_b_16")
ALL_BUT_HEAD = r"(?!head/).*"

# Model, weights, learning rate, rules, decay from layer to layer, transforms to train and to evaluate with.
RECIPES = {
    "frozen": (RESNET, "resnet50.safetensors", 1e-3, ((ALL_BUT_HEAD, dict(freeze=True)),), None, "weights", "weights"),
    "last_stage": (
        RESNET,
        "resnet50.safetensors",
        3e-4,
        ((r"(stem|stage_[123])/.*", dict(freeze=True)),),
        None,
        "weights",
        "weights",
    ),
    "finetune": (RESNET, "resnet50.safetensors", 3e-4, (), 0.8, "weights", "weights"),
    "vit": (
        VIT,
        "vit_b_16.safetensors",
        1e-4,
        (),
        0.75,
        "decode|random_resized_crop(384)|flip",
        "decode|resize_small(384)|central_crop(384)",
    ),
}


def get_config(recipe: str = "finetune"):
    """One way to use published weights.

    Args:
        recipe: a key of `RECIPES`.
    """
    model, weights, learning_rate, rules, decay, train, test = pick(RECIPES, "recipe", recipe, "configs/transfer.py")
    config = ConfigDict()
    config.seed = 0
    config.model = model
    config.init = dict(weights=weights, head="new")
    config.task = dict(name="classification", label_smoothing=0.1)
    config.data = dict(
        preprocess=dict(name="weights"),
        train=dict(name="folder:photos", split="train", batch_size=32, transforms=train, on_bad_image="skip"),
        eval=dict(test=dict(name="folder:photos", split="test", batch_size=32, transforms=test)),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=learning_rate,
        schedule="cosine",
        warmup="5%",
        weight_decay=1e-2,
        clip_norm=1.0,
        rules=rules,
        layer_decay=decay,
    )
    config.train = dict(epochs=20)
    config.evaluate = dict(every="1 epochs")
    config.checkpoint = dict(every="1 epochs", keep=1)
    config.log = dict(every="10 steps")
    return config
