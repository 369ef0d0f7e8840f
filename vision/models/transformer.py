"""The transformer's layers, which ViT shares, and its encoder-decoder (Vaswani et al. 2017, arXiv:1706.03762)."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UsageError
from vision.models import layers

layer_norm = functools.partial(nn.LayerNorm, epsilon=1e-6)
_xavier = layers.xavier_uniform
_small_bias = nn.initializers.normal(1e-6)


class Attention(nn.Module):
    """Multi-head attention (section 3.2), with its softmax in float32.

    Attributes:
        heads: number of heads; divides the width.
        dropout: chance of an attention weight to be zeroed while training.
        dtype: dtype of the products.
    """

    heads: int
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """What each position of `x` reads from `context`; for self-attention they are the same.

        Args:
            x: (B, queries, width).
            context: (B, keys, any width).
            mask: true where a query may read a key; broadcasts to (B, heads, queries, keys). A query that may read
                nothing reads everything alike.
            train: whether to apply dropout.

        Returns:
            (B, queries, width), and the attention weights (B, heads, queries, keys) in float32, whose rows add up to 1.

        Raises:
            UsageError: the heads do not divide the width.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise UsageError(f"attention: {self.heads} heads do not divide a width of {width}; choose a divisor of it.")
        head_width = width // self.heads
        project = functools.partial(
            nn.DenseGeneral, (self.heads, head_width), dtype=self.dtype, kernel_init=_xavier, axis=-1
        )
        query = project(name="query")(x)
        key, value = (project(name=name)(context) for name in ("key", "value"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query / head_width**0.5, key, preferred_element_type=jnp.float32)
        if mask is not None:
            scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, axis=-1)
        kept = nn.Dropout(self.dropout)(weights, deterministic=not train).astype(self.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", kept, value)
        y = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, kernel_init=_xavier, name="out")(y)
        return y, weights


class MlpBlock(nn.Module):
    """The transformer's two dense layers with an activation between them (section 3.3).

    Attributes:
        width: units of the hidden layer.
        activation: name in `ACTIVATIONS`.
        dropout: chance of a hidden unit to be zeroed while training.
        dtype: dtype of the computation.
    """

    width: int
    activation: str
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, N, width of the network) -> the same shape."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_xavier, bias_init=_small_bias)
        y = layers.activation(self.activation)(dense(self.width, name="dense_1")(x))
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        return dense(x.shape[-1], name="dense_2")(y)


class EncoderBlock(nn.Module):
    """Self-attention, then dense layers, each beside a shortcut.

    Attributes:
        heads: number of attention heads.
        mlp_width: units of the hidden dense layer.
        activation: name in `ACTIVATIONS`.
        norm_first: normalise what each half reads (ViT's equations 2 and 3), not its sum with the shortcut
            (Vaswani et al., section 3.1).
        dropout: chance of an output of either half to be zeroed while training.
        hidden_dropout: chance of a unit of the hidden dense layer to be zeroed while training.
        attention_dropout: chance of an attention weight to be zeroed while training.
        dtype: dtype of the computation; norms and softmax are computed in float32.
    """

    heads: int
    mlp_width: int
    activation: str = "gelu"
    norm_first: bool = True
    dropout: float = 0.0
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: jax.Array, drop_path: jax.Array | None, mask: jax.Array | None, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """x (B, N, width) -> the same shape, and the attention weights (B, heads, N, N).

        `drop_path` is the chance of either half to be dropped now, () or None; `mask` as in `Attention`.
        """
        attention = Attention(self.heads, self.attention_dropout, self.dtype, name="attention")
        mlp = MlpBlock(self.mlp_width, self.activation, self.hidden_dropout, self.dtype, name="mlp")
        residual = functools.partial(_residual, self, drop_path=drop_path, train=train)
        x, weights = residual("norm_1", x, lambda y: attention(y, y, mask, train))
        x, _ = residual("norm_2", x, lambda y: (mlp(y, train), None))
        return x, weights


class DecoderBlock(nn.Module):
    """Self-attention, attention to the encoder's output, then dense layers; the attributes are `EncoderBlock`'s."""

    heads: int
    mlp_width: int
    activation: str = "gelu"
    norm_first: bool = True
    dropout: float = 0.0
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        drop_path: jax.Array | None,
        mask: jax.Array | None,
        memory: jax.Array,
        memory_mask: jax.Array | None,
        train: bool,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """x (B, N, width), memory (B, M, width) -> as x, and weights (B, heads, N, N) and (B, heads, N, M)."""
        attention, cross_attention = (
            Attention(self.heads, self.attention_dropout, self.dtype, name=name)
            for name in ("attention", "cross_attention")
        )
        mlp = MlpBlock(self.mlp_width, self.activation, self.hidden_dropout, self.dtype, name="mlp")
        residual = functools.partial(_residual, self, drop_path=drop_path, train=train)
        x, weights = residual("norm_1", x, lambda y: attention(y, y, mask, train))
        x, cross_weights = residual("norm_2", x, lambda y: cross_attention(y, memory, memory_mask, train))
        x, _ = residual("norm_3", x, lambda y: (mlp(y, train), None))
        return x, (weights, cross_weights)


def _residual(block: nn.Module, norm: str, x: jax.Array, layer: Any, drop_path: jax.Array | None, train: bool):
    """(x + layer(x), what else the layer gives), with the norm of that name before the layer or after the sum."""
    normalize = layer_norm(dtype=block.dtype, name=norm)
    y, extra = layer(normalize(x) if block.norm_first else x)
    y = nn.Dropout(block.dropout)(y, deterministic=not train)
    if train and drop_path is not None:  # as `layers.DropPath`, but with a chance that may be traced
        keep = 1 - drop_path
        kept = jax.random.bernoulli(block.make_rng("dropout"), keep, (len(y), 1, 1))
        y = jnp.where(kept, y / keep.astype(y.dtype), 0)
    x = x + y
    return (x if block.norm_first else normalize(x)), extra


def apply_blocks(
    block: type[nn.Module],
    options: Mapping[str, Any],
    depth: int,
    x: jax.Array,
    *inputs: Any,
    train: bool,
    drop_path: float = 0.0,
    remat: bool = False,
    scan: bool = False,
) -> tuple[jax.Array, tuple[Any, ...]]:
    """A stack of equal blocks. To be called inside a compact method; the blocks belong to the calling module.

    Args:
        block: `EncoderBlock` or `DecoderBlock`.
        options: the block's attributes.
        depth: number of blocks.
        x: (B, N, width).
        *inputs: what each block reads besides: masks, memory.
        train: whether to apply dropout.
        drop_path: chance of the last block's halves to be dropped; grows linearly with depth.
        remat: compute each block again in the backward pass.
        scan: compile one block and loop over it. Parameters are then stacked, see `stack_blocks`.

    Returns:
        (B, N, width), and each block's attention weights, first to last.
    """
    # No chances at all, not zeros, where nothing is dropped: the blocks then need no random numbers.
    rates = jnp.asarray(layers.drop_path_rates(drop_path, depth)) if drop_path and train else None
    if remat:  # `train` is the last argument, counted with self. Within a loop nothing can be shared by mistake.
        block = nn.remat(block, static_argnums=(3 + len(inputs),), prevent_cse=not scan)
    if scan:
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, *(nn.broadcast,) * (len(inputs) + 1)),
            length=depth,
        )
        x, attention = scanned(**options, name="blocks")(x, rates, *inputs, train)
        return x, tuple(jax.tree.map(lambda leaf, i=i: leaf[i], attention) for i in range(depth))
    attention = []
    for index in range(depth):
        rate = None if rates is None else rates[index]
        x, weights = block(**options, name=f"block_{index + 1}")(x, rate, *inputs, train)
        attention.append(weights)
    return x, tuple(attention)


def stack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a network with `scan=True` from those of one without: "block_1", ... become "blocks".

    Args:
        params: the parameters of the module that holds the blocks: a whole ViT's, a transformer's `params["encoder"]`.
    """
    depth = sum(name.startswith("block_") for name in params)
    blocks = [params[f"block_{index + 1}"] for index in range(depth)]
    rest = {name: value for name, value in params.items() if not name.startswith("block_")}
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def unstack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes `stack_blocks`."""
    depth = len(jax.tree.leaves(params["blocks"])[0])
    blocks = {f"block_{i + 1}": jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(depth)}
    return {name: value for name, value in params.items() if name != "blocks"} | blocks


def padding_mask(valid: jax.Array) -> jax.Array:
    """(B, N), true at real positions -> (B, 1, 1, N): nobody reads padding."""
    return valid.astype(bool)[:, None, None, :]


def causal_mask(length: int) -> np.ndarray:
    """(1, 1, length, length): each position reads itself and what is before it (section 3.2.3)."""
    return np.tril(np.ones((1, 1, length, length), bool))


def sinusoidal_positions(length: int, width: int, temperature: float = 10_000.0) -> np.ndarray:
    """(length, width) float32: sine and cosine in turn at width / 2 frequencies (section 3.5).

    Raises:
        UsageError: the width is odd.
    """
    if width % 2:
        raise UsageError(f"transformer: sinusoidal positions need an even width, given {width}.")
    angles = np.outer(np.arange(length), temperature ** -(np.arange(0, width, 2) / width))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width).astype(np.float32)


class Transformer(nn.Module):
    """The encoder-decoder as published: post-norm, ReLU, fixed positions, one embedding for both sides and the output.

    Attributes:
        vocabulary: number of tokens, shared by source and target (section 5.1).
        width: length of a token.
        depth: number of blocks of the encoder, and of the decoder.
        heads: number of attention heads; divides the width.
        mlp_width: units of the hidden layer in each block.
        activation: name in `ACTIVATIONS`.
        norm_first: pre-norm blocks and a norm after the last, which train without warm-up (Xiong et al. 2020,
            arXiv:2002.04745).
        dropout: chance of a unit of the embeddings and of each half's output to be zeroed while training.
        attention_dropout: chance of an attention weight to be zeroed while training.
        drop_path: stochastic depth, the chance of the last block's parts to be dropped; grows linearly with depth.
        remat: compute each block again in the backward pass instead of keeping its intermediate results.
        scan: compile one block and loop over it, so that compile time does not grow with depth; see `stack_blocks`.
        dtype: dtype of the products; norms, softmax and logits are computed in float32.
    """

    vocabulary: int
    width: int = 512
    depth: int = 6
    heads: int = 8
    mlp_width: int = 2048
    activation: str = "relu"
    norm_first: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = False
    dtype: str = "float32"

    def setup(self):
        options = dict(
            heads=self.heads,
            mlp_width=self.mlp_width,
            activation=self.activation,
            norm_first=self.norm_first,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
        )
        stack = functools.partial(
            Stack, options=options, depth=self.depth, drop_path=self.drop_path, remat=self.remat, scan=self.scan
        )
        self.embedding = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(self.width**-0.5))
        self.encoder = stack(EncoderBlock)
        self.decoder = stack(DecoderBlock)
        self.embedding_dropout = nn.Dropout(self.dropout)

    def __call__(
        self,
        source: jax.Array,
        target: jax.Array,
        source_valid: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, Any]:
        """Scores of each target position's next token.

        Args:
            source: (B, S) token ids.
            target: (B, T) token ids, shifted right: position t is scored from those up to t.
            source_valid: (B, S), true at real tokens; None where all are. Padding behind the target needs no mask.
            train: whether to apply dropout.

        Returns:
            logits (B, T, vocabulary) float32, encoded (B, S, width), and each block's weights, first to last:
            encoder_attention (B, heads, S, S), decoder_attention (B, heads, T, T), cross_attention (B, heads, T, S).
        """
        source_mask = None if source_valid is None else padding_mask(source_valid)
        encoded, encoder_attention = self.encoder(self.embed(source, train), source_mask, train=train)
        decoded, attention = self.decoder(
            self.embed(target, train), causal_mask(target.shape[1]), encoded, source_mask, train=train
        )
        return {
            "logits": decoded.astype(jnp.float32) @ self.embedding.embedding.T,
            "encoded": encoded,
            "encoder_attention": encoder_attention,
            "decoder_attention": tuple(own for own, _ in attention),
            "cross_attention": tuple(cross for _, cross in attention),
        }

    def embed(self, tokens: jax.Array, train: bool) -> jax.Array:
        """(B, N) -> (B, N, width): scaled embeddings (section 3.4) with positions added."""
        x = self.embedding(tokens) * self.width**0.5 + sinusoidal_positions(tokens.shape[1], self.width)
        return self.embedding_dropout(x.astype(self.dtype), deterministic=not train)


class Stack(nn.Module):
    """An encoder or a decoder: equal blocks, and a norm after the last where the blocks normalise first.

    Attributes:
        block: `EncoderBlock` or `DecoderBlock`.
        options: the block's attributes, `norm_first` among them.
        depth, drop_path, remat, scan: those of `apply_blocks`.
    """

    block: type[nn.Module]
    options: Mapping[str, Any]
    depth: int
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *inputs: Any, train: bool = False) -> tuple[jax.Array, tuple[Any, ...]]:
        """x (B, N, width) and what the blocks read besides (mask; memory and its mask) -> as x, attention weights."""
        how = dict(train=train, drop_path=self.drop_path, remat=self.remat, scan=self.scan)
        x, attention = apply_blocks(self.block, self.options, self.depth, x, *inputs, **how)
        if self.options["norm_first"]:
            x = layer_norm(dtype=self.options["dtype"], name="norm")(x)
        return x, attention


# Table 3 of the paper; the tokens are those of its English-German data.
transformer_base = functools.partial(Transformer, vocabulary=37_000)
transformer_big = functools.partial(Transformer, vocabulary=37_000, width=1024, heads=16, mlp_width=4096, dropout=0.3)
