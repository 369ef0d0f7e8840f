"""U-Net on Cityscapes (Cordts et al. 2016): 19 classes of street scenes at 2048x1024 pixels.

    tfds build cityscapes/semantic_segmentation --file_format=array_record     # once; needs the archives
    python -m launch.train --config=configs/cityscapes_unet.py

Aimed at (published, not measured here): 69.1 % mean IoU on the 500 validation images (mmsegmentation's UNet-S5-D16 with
an FCN head, 160,000 steps of 16 crops of 512x1024). Evaluation slides windows of 512x1024 over the whole image.
Cost: 386 GMACs a crop forward; 160,000 steps are 2.6 million crops: about four days on 8 V100.
"""

from ml_collections import ConfigDict


def get_config():
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.model = dict(name="unet", dtype="bfloat16", remat=True)
    config.task = dict(name="segmentation", window=(512, 1024), window_stride=(256, 512))
    config.data = dict(
        preprocess=dict(name="standardize", mean=(0.287, 0.325, 0.284), std=(0.187, 0.190, 0.187)),
        train=dict(
            name="cityscapes/semantic_segmentation",
            split="train",
            batch_size=16,
            transforms=(
                "decode|scale_jitter(0.5, 2.0)|random_crop((512, 1024), pad_smaller=True)|flip"
                "|brightness(0.25)|contrast(0.25)|saturation(0.25)"
            ),
        ),
        eval=dict(
            val=dict(name="cityscapes/semantic_segmentation", split="validation", batch_size=8, transforms="decode")
        ),
    )
    config.optimizer = dict(
        name="momentum",
        momentum=0.9,
        learning_rate=1e-2,
        schedule=dict(name="polynomial", power=0.9),
        warmup="1%",
        l2=5e-4,
        clip_norm=10.0,
    )
    config.train = dict(steps=160_000)
    config.evaluate = dict(every="16000 steps")
    config.checkpoint = dict(every="4000 steps", keep=2)
    config.log = dict(every="50 steps")
    return config
