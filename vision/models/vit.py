"""The vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UsageError, pick
from vision.models import layers


class Size(NamedTuple):
    """The numbers that tell one ViT from another."""

    width: int
    depth: int
    heads: int
    mlp_width: int


# Table 1 of the paper; Ti and S from Touvron et al. 2021 (arXiv:2012.12877).
VARIANTS = {
    "Ti": Size(192, 12, 3, 768),
    "S": Size(384, 12, 6, 1536),
    "B": Size(768, 12, 12, 3072),
    "L": Size(1024, 24, 16, 4096),
    "H": Size(1280, 32, 16, 5120),
}

_norm = functools.partial(nn.LayerNorm, epsilon=1e-6)
_xavier = layers.xavier_uniform
_small_bias = nn.initializers.normal(1e-6)


class SelfAttention(nn.Module):
    """Multi-head self-attention (appendix A), with its softmax in float32.

    Attributes:
        heads: number of heads; divides the width.
        dropout: chance of an attention weight to be zeroed while training.
        dtype: dtype of the products.
    """

    heads: int
    dropout: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """x (B, N, width) -> the same shape, and the attention weights (B, heads, queries, keys), float32."""
        width = x.shape[-1]
        head_width = width // self.heads
        project = functools.partial(
            nn.DenseGeneral, (self.heads, head_width), dtype=self.dtype, kernel_init=_xavier, axis=-1
        )
        query, key, value = (project(name=name)(x) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query / head_width**0.5, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1)
        kept = nn.Dropout(self.dropout)(weights, deterministic=not train).astype(self.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", kept, value)
        y = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, kernel_init=_xavier, name="out")(y)
        return y, weights


class MlpBlock(nn.Module):
    """The transformer's two dense layers with a GELU between them.

    Attributes:
        width: units of the hidden layer.
        activation: name in `ACTIVATIONS`.
        dropout: chance of a unit to be zeroed while training, after each layer.
        dtype: dtype of the computation.
    """

    width: int
    activation: str
    dropout: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, N, width of the network) -> the same shape."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_xavier, bias_init=_small_bias)
        y = layers.activation(self.activation)(dense(self.width, name="dense_1")(x))
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        y = dense(x.shape[-1], name="dense_2")(y)
        return nn.Dropout(self.dropout)(y, deterministic=not train)


class EncoderBlock(nn.Module):
    """Attention, then dense layers, each normalised first and added to its input (equations 2 and 3).

    Attributes:
        heads: number of attention heads.
        mlp_width: units of the hidden dense layer.
        activation: name in `ACTIVATIONS`.
        dropout: chance of an output of either half to be zeroed while training.
        attention_dropout: chance of an attention weight to be zeroed while training.
        drop_path: chance of either half to be dropped while training.
        dtype: dtype of the computation; norms and softmax are computed in float32.
    """

    heads: int
    mlp_width: int
    activation: str
    dropout: float
    attention_dropout: float
    drop_path: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """x (B, N, width) -> the same shape, and the attention weights (B, heads, queries, keys)."""
        y = _norm(dtype=self.dtype, name="norm_1")(x)
        y, weights = SelfAttention(self.heads, self.attention_dropout, self.dtype, name="attention")(y, train)
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        x = x + layers.DropPath(self.drop_path)(y, train)
        y = _norm(dtype=self.dtype, name="norm_2")(x)
        y = MlpBlock(self.mlp_width, self.activation, self.dropout, self.dtype, name="mlp")(y, train)
        return x + layers.DropPath(self.drop_path)(y, train), weights


class ViT(nn.Module):
    """Vision transformer of any size and patch.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        variant: "Ti", "S", "B", "L" or "H": the width, depth, heads and mlp_width that are not given themselves.
        patch_size: side of a patch in pixels; divides the image's height and width.
        width: length of a token.
        depth: number of blocks.
        heads: number of attention heads; divides the width.
        mlp_width: units of the hidden layer in each block.
        activation: name in `ACTIVATIONS`, for the blocks' dense layers.
        positions: "learned", or fixed sines and cosines of the patch's row and column: "sincos".
        pool: what the classifier reads: a class "token", or the "average" of the patches (there is no token then).
        dropout: chance of a unit to be zeroed while training.
        attention_dropout: chance of an attention weight to be zeroed while training.
        drop_path: stochastic depth, the chance of the last block's halves to be dropped; grows linearly with depth.
        remat: compute each block again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the products; norms, softmax, pooled features and logits are computed in float32.
        conv: factory of the patch embedding.
    """

    num_classes: int | None = 1000
    variant: str = "B"
    patch_size: int = 16
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_width: int | None = None
    activation: str = "gelu"
    positions: Literal["learned", "sincos"] = "learned"
    pool: Literal["token", "average"] = "token"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features {patch: (B, h, w, width)}, attention, pooled (B, width), logits.

        `attention` holds each block's weights (B, heads, N, N), first to last; N counts the class token, which comes
        first, and the patches in row-major order.
        """
        size, patch = self.size(), (self.patch_size, self.patch_size)
        check_patches(image.shape[1:3], self.patch_size)
        embed = self.conv(size.width, patch, patch, "VALID", dtype=self.dtype, name="patch_embedding")
        x = embed(image.astype(self.dtype))
        batch, rows, columns, _ = x.shape
        x = x.reshape(batch, rows * columns, size.width)
        if self.pool == "token":
            token = self.param("class_token", nn.initializers.zeros, (size.width,)).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, size.width)), x], axis=1)
        x = x + self._positions(rows, columns, size.width).astype(x.dtype)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)

        block = nn.remat(EncoderBlock, static_argnums=(2,)) if self.remat else EncoderBlock  # `train`, with self
        block = functools.partial(
            block, size.heads, size.mlp_width, self.activation, self.dropout, self.attention_dropout, dtype=self.dtype
        )
        attention = []
        for index, rate in enumerate(layers.drop_path_rates(self.drop_path, size.depth)):
            x, weights = block(drop_path=rate, name=f"block_{index + 1}")(x, train)
            attention.append(weights)
        x = _norm(dtype=jnp.float32, name="norm")(x)

        patches = x[:, 1:] if self.pool == "token" else x
        pooled = x[:, 0] if self.pool == "token" else jnp.mean(x, axis=1)
        features = {self.patch_size: patches.reshape(batch, rows, columns, size.width)}
        logits = layers.classifier(pooled, self.num_classes, nn.initializers.zeros)
        return {"features": features, "attention": tuple(attention), "pooled": pooled, **logits}

    def size(self) -> Size:
        """The variant's numbers, replaced by those given; raises UsageError where the heads do not divide the width."""
        size = pick(VARIANTS, "ViT variant", self.variant, "vit")
        given = {name: getattr(self, name) for name in Size._fields if getattr(self, name) is not None}
        if "width" in given and "mlp_width" not in given:
            given["mlp_width"] = 4 * given["width"]  # as in every variant
        size = size._replace(**given)
        if size.width % size.heads:
            raise UsageError(f"vit: {size.heads} heads do not divide a width of {size.width}; choose a divisor of it.")
        return size

    def _positions(self, rows: int, columns: int, width: int) -> jax.Array:
        """(tokens, width): what is added to the tokens, class token first."""
        tokens = rows * columns + (self.pool == "token")
        if self.positions == "learned":
            return self.param("positions", nn.initializers.normal(0.02), (tokens, width))
        encoding = sincos_positions(rows, columns, width)
        return jnp.pad(encoding, ((tokens - len(encoding), 0), (0, 0)))  # the class token has no place: zeros


def sincos_positions(rows: int, columns: int, width: int, temperature: float = 10_000.0) -> np.ndarray:
    """Sines and cosines of row and column at width / 4 frequencies each (Vaswani et al. 2017, section 3.5, in two
    dimensions as in Chen et al. 2021, arXiv:2104.02057).

    The scalar product of two positions depends on their offset only.

    Returns:
        (rows * columns, width) float32, row-major.

    Raises:
        UsageError: the width is not divisible by 4.
    """
    if width % 4:
        raise UsageError(f"vit: sincos positions need a width divisible by 4, given {width}.")
    frequency = temperature ** -(np.arange(width // 4) / (width // 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [np.outer(axis.ravel(), frequency) for axis in (row, column)]
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def check_patches(image_size: tuple[int, int], patch: int) -> None:
    """Raises UsageError unless patches of this side tile the image (height, width)."""
    if all(side % patch == 0 and side > 0 for side in image_size):
        return
    smaller, larger = (
        tuple(max(round_to(side / patch), 1) * patch for side in image_size) for round_to in (math.floor, math.ceil)
    )
    sizes = " or ".join(f"{height}x{width}" for height, width in dict.fromkeys((smaller, larger)))
    raise UsageError(
        f"vit: an image of {image_size[0]}x{image_size[1]} does not divide into patches of {patch}x{patch}; "
        f"resize it to {sizes}, or choose a patch_size that divides its sides."
    )


vit_ti16 = functools.partial(ViT, variant="Ti", patch_size=16)
vit_s16 = functools.partial(ViT, variant="S", patch_size=16)
vit_s32 = functools.partial(ViT, variant="S", patch_size=32)
vit_b16 = functools.partial(ViT, variant="B", patch_size=16)
vit_b32 = functools.partial(ViT, variant="B", patch_size=32)
vit_l16 = functools.partial(ViT, variant="L", patch_size=16)
vit_l32 = functools.partial(ViT, variant="L", patch_size=32)
vit_h14 = functools.partial(ViT, variant="H", patch_size=14)
