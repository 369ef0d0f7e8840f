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
from vision.models.resnet_v2 import ResNetRoot, root_stride
from vision.models.transformer import Attention, EncoderBlock, MlpBlock, apply_blocks, layer_norm


class Size(NamedTuple):
    """The numbers that tell one ViT from another."""

    width: int
    depth: int
    heads: int
    mlp_width: int


# Table 1 of the paper; Ti and S from Touvron et al. 2021 (arXiv:2012.12877).
SIZES = {
    "Ti": Size(192, 12, 3, 768),
    "S": Size(384, 12, 6, 1536),
    "B": Size(768, 12, 12, 3072),
    "L": Size(1024, 24, 16, 4096),
    "H": Size(1280, 32, 16, 5120),
}


class AttentionPool(nn.Module):
    """Attention of one learned query to all patches, then dense layers beside a shortcut (Zhai et al. 2022,
    arXiv:2106.04560, section 3.4; Lee et al. 2019, arXiv:1810.00825).

    Attributes:
        heads: number of attention heads.
        mlp_width: units of the hidden dense layer.
        activation: name in `ACTIVATIONS`.
        dtype: dtype of the products.
    """

    heads: int
    mlp_width: int
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x (B, N, width) -> (B, width), and the attention weights (B, heads, 1, N)."""
        query = self.param("query", layers.xavier_uniform, (1, 1, x.shape[-1]))
        query = jnp.broadcast_to(query, (len(x), 1, x.shape[-1])).astype(x.dtype)
        y, weights = Attention(self.heads, dtype=self.dtype, name="attention")(query, x)
        z = layer_norm(dtype=self.dtype, name="norm")(y)
        z = MlpBlock(self.mlp_width, self.activation, dtype=self.dtype, name="mlp")(z, False)
        return (y + z)[:, 0].astype(jnp.float32), weights


class ViT(nn.Module):
    """Vision transformer of any size and patch.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        variant: "Ti", "S", "B", "L" or "H": the width, depth, heads and mlp_width that are not given themselves.
        patch_size: side of a patch in pixels, or in places of the root's map; divides its height and width.
        root_stages: number of blocks of each stage of a residual network before the patches: a hybrid. () is its stem
            alone; None, no network.
        root_width: channels of that network's stem; a multiple of 32.
        width: length of a token.
        depth: number of blocks.
        heads: number of attention heads; divides the width.
        mlp_width: units of the hidden layer in each block.
        activation: name in `ACTIVATIONS`, for the blocks' dense layers.
        positions: "learned", or fixed sines and cosines of the patch's row and column: "sincos".
        pool: what the classifier reads: a class "token", or the "average" of the patches, or what a learned query
            reads from them by "attention" (there is no token then).
        dropout: chance of a unit to be zeroed while training.
        attention_dropout: chance of an attention weight to be zeroed while training.
        drop_path: stochastic depth, the chance of the last block's halves to be dropped; grows linearly with depth.
        remat: compute each block again in the backward pass instead of keeping its intermediate results.
        scan: compile one block and loop over it, so that compile time does not grow with depth. The blocks' parameters
            are stacked then; `transformer.stack_blocks` makes them from those of single blocks.
        dtype: dtype of the products; norms, softmax, pooled features and logits are computed in float32.
        conv: factory of the patch embedding.
    """

    num_classes: int | None = 1000
    variant: str = "B"
    patch_size: int = 16
    root_stages: tuple[int, ...] | None = None
    root_width: int = 64
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_width: int | None = None
    activation: str = "gelu"
    positions: Literal["learned", "sincos"] = "learned"
    pool: Literal["token", "average", "attention"] = "token"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False, kept: jax.Array | None = None) -> dict[str, Any]:
        """image (B, H, W, C) -> features {patch: (B, h, w, width)}, attention, pooled (B, width), tokens, logits.

        `tokens` (B, N, width) are the normalised results of the last block; N counts the class token, which comes
        first, and the patches in row-major order. `attention` holds each block's weights (B, heads, N, N), first to
        last. With attention pooling, `pool_attention` (B, heads, 1, N) holds that of the query. A hybrid has the
        features of its root too.

        Args:
            image: (B, H, W, C).
            train: whether to apply dropout.
            kept: (B, K) indices of the patches that are read, in the order of the tokens; the blocks never see the
                others (a masked autoencoder's encoder). There is no map of the patches' features then.
        """
        size, patch = self.size(), (self.patch_size, self.patch_size)
        stride = 1 if self.root_stages is None else root_stride(self.root_stages)
        check_patches(image.shape[1:3], self.patch_size, stride)
        x, features = image.astype(self.dtype), {}
        if self.root_stages is not None:
            root = ResNetRoot(self.root_stages, self.root_width, self.remat, self.dtype, name="root")
            features = root(x, train)
            x = features[stride]
        x = self.conv(size.width, patch, patch, "VALID", dtype=self.dtype, name="patch_embedding")(x)
        rows, columns = x.shape[1:3]
        x = self._tokens(x, kept)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)

        options = dict(
            heads=size.heads,
            mlp_width=size.mlp_width,
            activation=self.activation,
            dropout=self.dropout,
            hidden_dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
        )
        how = dict(train=train, drop_path=self.drop_path, remat=self.remat, scan=self.scan)
        x, attention = apply_blocks(EncoderBlock, options, size.depth, x, None, **how)  # None: all read all
        x = layer_norm(dtype=jnp.float32, name="norm")(x)

        outputs = {"tokens": x}
        if self.pool == "token":
            pooled = x[:, 0]
        elif self.pool == "average":
            pooled = jnp.mean(x, axis=1)
        else:
            pool = AttentionPool(size.heads, size.mlp_width, self.activation, self.dtype, name="pool")
            pooled, outputs["pool_attention"] = pool(x)
        if kept is None:
            patches = x[:, 1:] if self.pool == "token" else x
            features[self.patch_size * stride] = patches.reshape(len(x), rows, columns, size.width)
        logits = layers.classifier(pooled, self.num_classes, nn.initializers.zeros)
        return {"features": features, "attention": attention, "pooled": pooled, **outputs, **logits}

    def size(self) -> Size:
        """The variant's numbers, replaced by those given; raises UsageError where the heads do not divide the width."""
        size = pick(SIZES, "ViT variant", self.variant, "vit")
        given = {name: getattr(self, name) for name in Size._fields if getattr(self, name) is not None}
        if "width" in given and "mlp_width" not in given:
            given["mlp_width"] = 4 * given["width"]  # as in every variant
        size = size._replace(**given)
        if size.width % size.heads:
            raise UsageError(f"vit: {size.heads} heads do not divide a width of {size.width}; choose a divisor of it.")
        return size

    def _tokens(self, embedded: jax.Array, kept: jax.Array | None) -> jax.Array:
        """embedded (B, h, w, width) -> (B, N, width): with positions, of the kept patches, the class token first."""
        batch, rows, columns, width = embedded.shape
        token = self.param("class_token", nn.initializers.zeros, (width,)) if self.pool == "token" else None
        positions = self._positions(rows, columns, width).astype(embedded.dtype)
        patches = embedded.reshape(batch, rows * columns, width) + positions[-rows * columns :]
        if kept is not None:
            patches = jnp.take_along_axis(patches, kept[..., None], axis=1)
        if token is None:
            return patches
        token = token.astype(embedded.dtype) + positions[0]
        return jnp.concatenate([jnp.broadcast_to(token, (batch, 1, width)), patches], axis=1)

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


def resample_positions(
    positions: jax.Array,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    prefix_tokens: int = 1,
    method: Literal["bicubic", "bilinear"] = "bicubic",
) -> jax.Array:
    """Learned positions for another number of patches (Dosovitskiy et al. 2021, section 3.2).

    Patches are taken for points in the middle of equal cells, as pixels are, and where there are fewer than before
    each averages those it stands for; "bicubic" has Keys's a = -1/2. This is what timm does.

    Args:
        positions: (prefix_tokens + old rows * old columns, width), row-major.
        old_grid: (rows, columns) of patches.
        new_grid: (rows, columns) of patches.
        prefix_tokens: number of tokens before the patches, such as a class token; these stay as they are.
        method: kind of interpolation.

    Returns:
        (prefix_tokens + new rows * new columns, width), of the same dtype.

    Raises:
        UsageError: the old grid is not that of the positions.
    """
    prefix, grid = positions[:prefix_tokens], positions[prefix_tokens:]
    if len(grid) != math.prod(old_grid):
        raise UsageError(
            f"vit: {len(positions)} positions are not {prefix_tokens} and a grid of {old_grid[0]}x{old_grid[1]}."
        )
    if tuple(old_grid) == tuple(new_grid):
        return positions
    width = positions.shape[-1]
    resized = jax.image.resize(grid.reshape(*old_grid, width), (*new_grid, width), method)
    return jnp.concatenate([prefix, resized.reshape(-1, width)])


def check_patches(image_size: tuple[int, int], patch: int, root_stride: int = 1) -> None:
    """Raises UsageError unless patches of this side tile the image (height, width), or the map of a root on it.

    Args:
        image_size: (height, width) in pixels.
        patch: side of a patch in places of the map.
        root_stride: the map's side is the image's divided by it, rounded up.
    """
    if all(side > 0 and -(-side // root_stride) % patch == 0 for side in image_size):
        return
    cell = patch * root_stride
    raise UsageError(
        f"vit: an image of {image_size[0]}x{image_size[1]} does not divide into patches of {cell}x{cell}; "
        f"resize it to {layers.nearest_sizes(image_size, cell)}, or choose a patch_size that divides its sides."
    )


_SHORT = {"Ti": "ti", "S": "s", "B": "b", "L": "l", "H": "h"}
_TIMM = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H"}
_PATCHES = {"Ti": (8, 16, 32), "S": (8, 16, 32), "B": (8, 16, 32), "L": (8, 14, 16, 32), "H": (14,)}


def _variants() -> dict[str, Callable[..., nn.Module]]:
    """The sizes and patches by their short names, torchvision's and timm's; timm's image sizes mean any size here."""
    result = {"vit": ViT}
    for variant, patches in _PATCHES.items():
        for patch in patches:
            network = functools.partial(ViT, variant=variant, patch_size=patch)
            result[f"vit_{_SHORT[variant]}{patch}"] = network
            if variant in "BLH":
                result[f"vit_{_SHORT[variant]}_{patch}"] = network  # torchvision
            word = next(word for word, name in _TIMM.items() if name == variant)
            result |= {f"vit_{word}_patch{patch}_{side}": network for side in (224, 384) if side % patch == 0}
    return result


VARIANTS = _variants()
