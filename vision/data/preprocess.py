"""From uint8 images to a network's float32 inputs, on the device: `(B, H, W, C)` values 0..255 to normalised ones.

A configuration may say "train" instead of a mean or a standard deviation: `resolve` measures it. What it returns is
plain numbers, to be stored with a run, so that prediction does what training did.
"""

import concurrent.futures
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vision import schema
from vision.data import chain
from vision.data.images import BadImage
from vision.data.source import Source
from vision.errors import UsageError, pick

Constants = tuple[float, ...] | Literal["train"]

_MEASURED_EXAMPLES = 4096


def normalize(images: jax.Array, *, low: float = 0.0, high: float = 1.0) -> jax.Array:
    """Scales 0..255 to low..high.

    Args:
        images: (B, H, W, C) uint8.
        low: what 0 becomes.
        high: what 255 becomes.
    """
    return low + images.astype(jnp.float32) * ((high - low) / 255)


def center(images: jax.Array, *, mean: Constants = "train") -> jax.Array:
    """Scales 0..255 to 0..1 and subtracts the mean.

    Args:
        images: (B, H, W, C) uint8.
        mean: of each channel, 0..1; or "train" to measure it on the training split.
    """
    return images.astype(jnp.float32) / 255 - _per_channel(mean, images, "mean")


def standardize(
    images: jax.Array,
    *,
    mean: Constants = "train",
    std: Constants = "train",
    channel_order: Literal["RGB", "BGR"] = "RGB",
) -> jax.Array:
    """Scales 0..255 to 0..1, subtracts the mean and divides by the standard deviation.

    Args:
        images: (B, H, W, C) uint8.
        mean: of each channel, 0..1, in the order below; or "train" to measure it on the training split.
        std: of each channel, 0..1, in the order below; or "train" to measure it on the training split.
        channel_order: of what the network sees: "BGR" for weights that came through Caffe.
    """
    images = images[..., ::-1] if channel_order == "BGR" else images
    centered = images.astype(jnp.float32) / 255 - _per_channel(mean, images, "mean")
    return centered / _per_channel(std, images, "std")


def standardize_each(images: jax.Array) -> jax.Array:
    """Subtracts from each image its own mean, and divides by its own standard deviation, over all pixels and channels.

    For images whose brightness says nothing, as of microscopes. Padding counts as pixels of the image.

    Args:
        images: (B, H, W, C) uint8.
    """
    images = images.astype(jnp.float32)
    centered = images - images.mean(axis=(1, 2, 3), keepdims=True)
    return centered / jnp.maximum(images.std(axis=(1, 2, 3), keepdims=True), 1.0)  # a uniform image becomes zeros


PREPROCESS: dict[str, Callable[..., jax.Array]] = {
    function.__name__: function for function in (normalize, center, standardize, standardize_each)
}


def create(name: str, *, where: str = "config.data.preprocess", **arguments: Any) -> Callable[[jax.Array], jax.Array]:
    """The function (B, H, W, C) uint8 -> float32 of a resolved section.

    Args:
        name: in `PREPROCESS`.
        where: the section's place in the configuration, for messages.
        **arguments: of that function; "train" is replaced by `resolve` before.

    Raises:
        UsageError: an unknown name or argument, or a constant that is still to be measured.
    """
    arguments = {key: _as_tuple(value) for key, value in arguments.items()}
    function = pick(PREPROCESS, "preprocessing", name, f"{where}.name")
    schema.check(function, arguments, where, injected=("images",))
    for key, value in _with_defaults(function, arguments).items():
        if value == "train":
            raise UsageError(f"{where}.{key}: 'train' is to be measured first; see vision.data.preprocess.resolve.")
    _check_std(arguments, where)
    return functools.partial(function, **arguments)


def resolve(
    section: Mapping[str, Any], source: Source, transforms: str, where: str = "config.data.preprocess"
) -> dict[str, Any]:
    """The section with every default written out and every "train" replaced by what is measured, fit for JSON.

    Args:
        section: {"name": ..., **arguments}.
        source: the training split.
        transforms: those of training, as in `vision.data.pipeline.create`.
        where: the section's place in the configuration, for messages.

    Raises:
        UsageError: an unknown name or argument, or no image can be decoded.
    """
    arguments = {key: _as_tuple(value) for key, value in section.items() if key != "name"}
    function = pick(PREPROCESS, "preprocessing", section.get("name"), f"{where}.name")
    schema.check(function, arguments, where, injected=("images",))
    arguments = _with_defaults(function, arguments)
    _check_std(arguments, where)
    if "train" in arguments.values():
        measured = measure(source, transforms)
        if arguments.get("channel_order") == "BGR":
            measured = {key: values[::-1] for key, values in measured.items()}
        arguments = {key: measured[key] if value == "train" else value for key, value in arguments.items()}
    return {"name": section["name"], **arguments}


def measure(source: Source, transforms: str, examples: int = _MEASURED_EXAMPLES) -> dict[str, tuple[float, ...]]:
    """{"mean": ..., "std": ...}: of each channel, 0..1, over the pixels of evenly spaced examples of the source.

    The images are taken as they are after the transforms that are not random, without any padding. Every image counts
    alike, whatever its size. A channel that does not vary gets the standard deviation 1. The result is the same every
    time.

    Raises:
        UsageError: no image can be decoded.
    """
    calls = [
        call for call in chain.deterministic(chain.parse(transforms)) if call.name not in ("pad_to", "selective_search")
    ]
    chosen = np.unique(np.linspace(0, len(source) - 1, min(examples, len(source))).round().astype(int))

    def moments(index: int) -> np.ndarray | None:
        try:
            example = chain.apply(calls, source.records[index], None)
        except BadImage:
            return None  # the pipeline deals with it
        image = example["image"]
        if "size" in example:
            image = image[: example["size"][0], : example["size"][1]]
        values = image.reshape(-1, image.shape[-1]) / 255
        return np.stack([values.mean(axis=0), np.square(values).mean(axis=0)])

    with concurrent.futures.ThreadPoolExecutor() as executor:
        found = [pair for pair in executor.map(moments, chosen.tolist()) if pair is not None]
    if not found:
        raise UsageError(f"No image of {source.name!r} can be decoded to measure the mean and standard deviation.")
    mean, square = np.mean(found, axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    std = np.where(std < 1e-6, 1.0, std)
    logging.info("Measured on %d images of %s/%s: mean %s, std %s", len(found), source.name, source.split, mean, std)
    return {"mean": _rounded(mean), "std": _rounded(std)}


def _per_channel(values: tuple[float, ...], images: jax.Array, name: str) -> jax.Array:
    """(C,) float32; checked, for a single channel would broadcast against three constants without a word."""
    if len(values) not in (1, images.shape[-1]):
        raise UsageError(
            f"config.data.preprocess.{name}: {len(values)} values {values} for images of {images.shape[-1]} channels."
        )
    return jnp.array(values, jnp.float32)


def _check_std(arguments: Mapping[str, Any], where: str) -> None:
    std = arguments.get("std", "train")
    if std != "train" and not all(value > 0 for value in std):
        raise UsageError(f"{where}.std: expected numbers above 0, given {std}.")


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def _as_tuple(value: Any) -> Any:
    """A list, which is what JSON makes of a tuple, as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _with_defaults(function: Callable, arguments: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    del defaults["images"]
    return {**defaults, **arguments}
