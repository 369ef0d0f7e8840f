"""The masked autoencoder on ViT (He et al. 2022, arXiv:2111.06377)."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import layers
from vision.models.transformer import EncoderBlock, apply_blocks, layer_norm
from vision.models.vit import ViT, check_patches, sincos_positions
from vision.ops.patches import depth_to_space


class Decoder(nn.Module):
    """Reads the visible patches' tokens, and the same learned token in every hidden place (section 3, "MAE decoder").

    Attributes:
        outputs: numbers to predict for each patch.
        width, depth, heads: of the blocks; a block's hidden layer has 4 * width units.
        activation, remat, scan, dtype: those of `MaskedAutoencoder`.
    """

    outputs: int
    width: int
    depth: int
    heads: int
    activation: str
    remat: bool
    scan: bool
    dtype: str

    @nn.compact
    def __call__(
        self, tokens: jax.Array, visible: int, order: jax.Array, grid: tuple[int, int], train: bool
    ) -> jax.Array:
        """A prediction for every patch, hidden or visible.

        Args:
            tokens: (B, 1 + K or K, any width): the class token, if there is one, and K visible patches.
            visible: K.
            order: (B, N) places of all patches: of the visible ones, in the order of their tokens, then of the others.
            grid: (h, w) with h * w = N.
            train: whether the network trains.

        Returns:
            (B, N, outputs) float32, row-major.
        """
        dense = functools.partial(nn.Dense, kernel_init=layers.xavier_uniform)
        x = dense(self.width, dtype=self.dtype, name="embed")(tokens)
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,)).astype(x.dtype)
        batch, count = order.shape
        class_token, patches = x[:, : x.shape[1] - visible], x[:, x.shape[1] - visible :]
        hidden = jnp.broadcast_to(mask_token, (batch, count - visible, self.width))
        places = jnp.argsort(order, axis=-1)[..., None]
        patches = jnp.take_along_axis(jnp.concatenate([patches, hidden], axis=1), places, axis=1)
        patches = patches + sincos_positions(*grid, self.width).astype(x.dtype)

        options = dict(heads=self.heads, mlp_width=4 * self.width, activation=self.activation, dtype=self.dtype)
        x = jnp.concatenate([class_token, patches], axis=1)
        how = dict(train=train, remat=self.remat, scan=self.scan)
        x, _ = apply_blocks(EncoderBlock, options, self.depth, x, None, **how)
        x = layer_norm(dtype=jnp.float32, name="norm")(x[:, -count:])
        return dense(self.outputs, dtype=jnp.float32, name="pixels")(x)


class MaskedAutoencoder(nn.Module):
    """Hides most patches of an image and predicts their pixels from the few that its encoder, `vit`, sees.

    The encoder is a ViT with these fields, fixed "sincos" positions and no classifier. While training every image has
    hidden patches of its own, drawn from the random stream "sample". Otherwise one fixed pattern serves all images, so
    that what is found for an image depends on nothing but the image.

    Attributes:
        variant: "Ti", "S", "B", "L" or "H": the encoder's width, depth, heads and mlp_width that are not given.
        patch_size: side of a patch in pixels; divides the image's height and width.
        width: length of an encoder's token.
        depth: number of the encoder's blocks.
        heads: number of the encoder's attention heads.
        mlp_width: units of the hidden layer in each of the encoder's blocks.
        pool: what a classifier will read: a class "token", which passes through encoder and decoder without a task of
            its own, or the "average" of the patches; then there is no token.
        mask_ratio: share of the patches that are hidden, rounded to whole patches; more than 0 and less than 1.
        decoder_width: length of a decoder's token.
        decoder_depth: number of the decoder's blocks.
        decoder_heads: number of the decoder's attention heads.
        activation: name in `ACTIVATIONS`, for the blocks' dense layers.
        remat: compute each block again in the backward pass instead of keeping its intermediate results.
        scan: compile one block and loop over it; see `ViT`.
        dtype: dtype of the products; norms, softmax and reconstruction are computed in float32.
        conv: factory of the patch embedding.
    """

    variant: str = "B"
    patch_size: int = 16
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_width: int | None = None
    pool: Literal["token", "average"] = "token"
    mask_ratio: float = 0.75
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    activation: str = "gelu"
    remat: bool = False
    scan: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> reconstruction (B, H, W, C) in [0, 1], reconstruction_logits, masked (B, h, w), tokens.

        `masked` is 1 where a patch was hidden and 0 where it was seen. The reconstruction covers the seen patches too,
        but nothing is learned about those: put the image's own pixels there. `tokens` (B, 1 + K, width) are the
        encoder's results for the class token, if there is one, and the K seen patches in row-major order.

        Raises:
            UsageError: patches do not tile the image, or mask_ratio hides none of them, or all.
        """
        patch = self.patch_size
        check_patches(image.shape[1:3], patch)
        batch, (rows, columns) = len(image), (side // patch for side in image.shape[1:3])
        visible = self._visible(rows * columns)
        order, masked = hide(self._noise(batch, rows * columns, train), visible)

        shared = ("patch_size", "activation", "remat", "scan", "dtype")
        same = {name: getattr(self, name) for name in (*shared, "variant", "width", "depth", "heads", "mlp_width")}
        encoder = ViT(None, positions="sincos", pool=self.pool, conv=self.conv, **same, name="encoder")
        tokens = encoder(image, train, order[:, :visible])["tokens"]

        size = (self.decoder_width, self.decoder_depth, self.decoder_heads)
        how = (self.activation, self.remat, self.scan, self.dtype)
        decoder = Decoder(patch * patch * image.shape[-1], *size, *how, name="decoder")
        predicted = decoder(tokens, visible, order, (rows, columns), train)
        pixels = depth_to_space(predicted.reshape(batch, rows, columns, -1), patch)
        return {
            "reconstruction": jax.nn.sigmoid(pixels),
            "reconstruction_logits": pixels,
            "masked": masked.reshape(batch, rows, columns).astype(jnp.float32),
            "tokens": tokens,
        }

    def _visible(self, patches: int) -> int:
        visible = round(patches * (1 - self.mask_ratio))
        if 0 < visible < patches:
            return visible
        raise UsageError(
            f"mae: a mask_ratio of {self.mask_ratio} leaves {visible} of {patches} patches to see; it must leave some "
            "and hide some: take a ratio between 0 and 1, smaller patches or larger images."
        )

    def _noise(self, batch: int, patches: int, train: bool) -> jax.Array:
        """(batch, patches): random numbers whose ranks choose what is hidden."""
        if not train:
            return jnp.broadcast_to(jax.random.uniform(jax.random.key(0), (patches,)), (batch, patches))
        keys = jax.random.split(self.make_rng("sample"), batch)
        return jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys)


def hide(noise: jax.Array, visible: int) -> tuple[jax.Array, jax.Array]:
    """Which patches are hidden: all but those with the `visible` smallest numbers.

    Args:
        noise: (B, N) a number for each patch.
        visible: number of patches of each image that stay.

    Returns:
        (B, N) indices of the visible patches, then of the hidden ones, each part ascending; and (B, N), true where
        hidden.
    """
    rank = jnp.argsort(jnp.argsort(noise, axis=-1), axis=-1)
    hidden = rank >= visible
    return jnp.argsort(hidden, axis=-1, stable=True), hidden


# The names of the paper's code; the decoder is the same for all.
VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "mae": MaskedAutoencoder,
    "mae_vit_base_patch16": functools.partial(MaskedAutoencoder, variant="B", patch_size=16),
    "mae_vit_large_patch16": functools.partial(MaskedAutoencoder, variant="L", patch_size=16),
    "mae_vit_huge_patch14": functools.partial(MaskedAutoencoder, variant="H", patch_size=14),
}
