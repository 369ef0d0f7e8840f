"""The region proposal network (Ren et al. 2015, arXiv:1506.01497, section 3), and sampling of regions to learn from.

Functions take one image; `jax.vmap` over images.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vision.models import layers
from vision.ops import boxes as box_ops
from vision.ops.matching import BELOW, match_by_threshold, sample_balanced
from vision.ops.nms import nms_per_class

# Regions covered by an ignored one to more than this share of their area are no background.
_IGNORED_SHARE = 0.7


class RPNHead(nn.Module):
    """Objectness and offsets of the anchors at every place; the same layers read every level (section 3.1).

    Attributes:
        anchors: number of anchors at a place.
        widths: channels of the 3x3 convolutions, each with its ReLU.
        softmax: whether objectness is a softmax over two scores, as in the paper, and not one score.
        dtype: dtype of the 3x3 convolutions; the results are float32.
        conv: factory of the convolutions.
    """

    anchors: int
    widths: tuple[int, ...]
    softmax: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Maps (B, h, w, C) -> objectness logits (B, A) and offsets (B, A, 4) of the anchors of all levels."""
        # All layers start from a normal distribution of this width (section 3.1.3).
        init = nn.initializers.normal(0.01)
        hidden = [
            self.conv(width, (3, 3), padding=1, dtype=self.dtype, kernel_init=init, name=f"conv_{number}")
            for number, width in enumerate(self.widths, start=1)
        ]
        final = functools.partial(self.conv, kernel_size=(1, 1), dtype=jnp.float32, kernel_init=init)
        scores = final(self.anchors * (2 if self.softmax else 1), name="objectness")
        offsets = final(self.anchors * 4, name="offsets")
        found = []
        for x in maps:
            for conv in hidden:
                x = nn.relu(conv(x))
            logits = scores(x).reshape(len(x), -1, 2 if self.softmax else 1)
            # The logarithm of the odds of a softmax over two is their difference.
            logits = logits[..., 1] - logits[..., 0] if self.softmax else logits[..., 0]
            found.append((logits, offsets(x).reshape(len(x), -1, 4)))
        return tuple(jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))


class Proposals(NamedTuple):
    """Regions of one image that may hold an object, by descending score.

    Attributes:
        boxes: (P, 4), zeros in empty places.
        scores: (P,) objectness, 0..1.
        valid: (P,) whether a place is filled.
    """

    boxes: jax.Array
    scores: jax.Array
    valid: jax.Array


def propose(
    logits: jax.Array,
    offsets: jax.Array,
    anchors: jax.Array,
    image_size: jax.Array,
    *,
    level_sizes: Sequence[int],
    before_nms: int,
    num: int,
    threshold: float,
    min_size: float,
) -> Proposals:
    """The best regions of one image, in torchvision's order of steps; no gradient flows into them.

    Of each level the anchors with the highest scores; these moved by their offsets, clipped to the image and rid of
    those that are too small; non-maximum suppression within each level; the best of what remains, all levels together.

    Args:
        logits: (A,) objectness.
        offsets: (A, 4) from the anchors.
        anchors: (A, 4), level by level.
        image_size: (height, width) of the image without padding.
        level_sizes: number of anchors of each level.
        before_nms: most anchors of a level.
        num: most proposals.
        threshold: largest IoU of two proposals of one level.
        min_size: smallest side in pixels.
    """
    logits, offsets = lax.stop_gradient((logits.astype(jnp.float32), offsets))
    best, start = [], 0
    for size in level_sizes:
        best.append(lax.top_k(logits[start : start + size], min(before_nms, size))[1] + start)
        start += size
    level = jnp.concatenate([jnp.full(index.shape, number, jnp.int32) for number, index in enumerate(best)])
    index = jnp.concatenate(best)
    boxes = box_ops.clip(box_ops.decode(offsets[index], anchors[index]), image_size)
    exists = box_ops.is_valid(boxes, min_size)
    kept, filled = nms_per_class(boxes, logits[index], level, threshold, num, exists)
    scores = jax.nn.sigmoid(logits[index[kept]])
    return Proposals(jnp.where(filled[:, None], boxes[kept], 0.0), jnp.where(filled, scores, 0.0), filled)


def keys_of_images(key: jax.Array, images: int) -> jax.Array:
    """(B,) a key for each image, so that its sample does not depend on the others in its batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images))


class Sample(NamedTuple):
    """Regions of one image to learn from, those that hold an object first.

    Attributes:
        index: (S,) the regions' places among all, 0 in empty places.
        boxes: (S, 4) the regions.
        objects: (S,) each region's object among the true ones, 0 for the background.
        positive: (S,) whether a region holds an object.
        filled: (S,) whether a place is filled.
        offsets: (S, 4) from each region to its object's box, 0 for the background.
    """

    index: jax.Array
    boxes: jax.Array
    objects: jax.Array
    positive: jax.Array
    filled: jax.Array
    offsets: jax.Array


def sample(
    key: jax.Array,
    boxes: jax.Array,
    exists: jax.Array,
    truth: Mapping[str, jax.Array],
    *,
    num: int,
    positive_fraction: float,
    matching: tuple[float, float],
    low_quality_matches: bool = False,
    weights: box_ops.Four = (1.0, 1.0, 1.0, 1.0),
) -> Sample:
    """Draws regions of one image, anchors or proposals, and says what is to be learnt from each (section 3.1.2).

    Args:
        key: of this image.
        boxes: (R, 4) regions.
        exists: (R,) False for those that are not to be drawn.
        truth: of this image: `boxes` (N, 4), N at least 1, `valid` (N,), and where there are any `ignored` (M, 4),
            regions that are neither objects nor background, zeros for padding.
        num: regions to draw.
        positive_fraction: largest share of those with an object.
        matching: IoU from which a region holds an object, and IoU below which it is background.
        low_quality_matches: whether each object gets the regions that overlap it most in any case.
        weights: of the offsets, see `vision.ops.boxes.encode`.
    """
    true_boxes = truth["boxes"]
    quality = jnp.where(exists, box_ops.pairwise(true_boxes, boxes), 0.0)
    matches = match_by_threshold(quality, truth["valid"], *matching, low_quality_matches)
    background = exists & (matches == BELOW)
    if "ignored" in truth:
        background &= ~jnp.any(box_ops.covered(boxes, truth["ignored"]) > _IGNORED_SHARE, axis=1)
    index, positive, filled = sample_balanced(key, exists & (matches >= 0), background, num, positive_fraction)
    objects = jnp.where(positive, matches[index], 0)
    boxes = boxes[index]
    offsets = jnp.where(positive[:, None], box_ops.encode(true_boxes[objects], boxes, weights), 0.0)
    return Sample(index, boxes, objects, positive, filled, offsets)
