"""Optimisers by name: gradients -> the direction of an update, which `optimizer.create` multiplies by -learning rate.

Each is a function of `decay`, the transformation that adds weight decay, and puts it where its paper has it: for nearly
all after the preconditioning (decoupled: Loshchilov and Hutter 2019, algorithm 2), for LARS and LAMB before the
trust ratio. The learning rate comes last, so momentum does not carry earlier learning rates along.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import optax
import optax.contrib

from vision.train.parameters import is_kernel, map_with_path

INJECTED = ("decay",)


def sgd(
    decay: optax.GradientTransformation, momentum: float = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    """Stochastic gradient descent, v <- momentum * v + g (Sutskever et al. 2013, without the learning rate in v).

    Args:
        momentum: how much of the earlier direction is kept; 0 keeps no memory.
        nesterov: look ahead along the momentum (Nesterov's form).
    """
    return optax.chain(optax.trace(momentum, nesterov) if momentum else optax.identity(), decay)


def adagrad(
    decay: optax.GradientTransformation, initial_accumulator_value: float = 0.1, eps: float = 1e-7
) -> optax.GradientTransformation:
    """AdaGrad (Duchi et al. 2011).

    Args:
        initial_accumulator_value: of the sum of squared gradients.
        eps: added to it inside the square root.
    """
    return optax.chain(optax.scale_by_rss(initial_accumulator_value, eps), decay)


def adadelta(decay: optax.GradientTransformation, rho: float = 0.9, eps: float = 1e-6) -> optax.GradientTransformation:
    """AdaDelta (Zeiler 2012, algorithm 1), whose own learning rate is 1.

    Args:
        rho: decay of the two running averages.
        eps: added inside both square roots.
    """
    return optax.chain(optax.scale_by_adadelta(rho, eps), decay)


def rmsprop(
    decay: optax.GradientTransformation,
    rho: float = 0.9,
    eps: float = 1e-8,
    eps_in_sqrt: bool = True,
    initial_scale: float = 0.0,
    centered: bool = False,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """RMSProp (Tieleman and Hinton 2012, lecture 6.5).

    Args:
        rho: decay of the average of squared gradients.
        eps: keeps the division finite.
        eps_in_sqrt: whether eps is added inside the square root (TensorFlow) or to the root (PyTorch).
        initial_scale: of the average of squared gradients.
        centered: divide by the standard deviation instead of the root mean square.
        momentum: of the scaled gradients; 0 keeps no memory.
        nesterov: look ahead along the momentum.
    """
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    trace = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return optax.chain(scale(rho, eps, initial_scale, eps_in_sqrt), trace, decay)


def adam(
    decay: optax.GradientTransformation,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    nesterov: bool = False,
    mu_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, algorithm 1); with `weight_decay`, AdamW.

    Args:
        b1: decay of the average of gradients.
        b2: decay of the average of squared gradients.
        eps: added to the root of the latter.
        eps_root: added inside that root.
        nesterov: look ahead along the momentum (Dozat 2016).
        mu_dtype: dtype of the average of gradients, such as "bfloat16"; None: that of the parameters.
    """
    return optax.chain(optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov), decay)


def lamb(
    decay: optax.GradientTransformation, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, eps_root: float = 0.0
) -> optax.GradientTransformation:
    """LAMB (You et al. 2020, algorithm 2). Biases and norm scales take Adam's update, without the trust ratio.

    Args:
        b1: decay of the average of gradients.
        b2: decay of the average of squared gradients.
        eps: added to the root of the latter.
        eps_root: added inside that root.
    """
    trust = optax.masked(optax.scale_by_trust_ratio(), _kernels)
    return optax.chain(optax.scale_by_adam(b1, b2, eps, eps_root), decay, trust)


def lars(
    decay: optax.GradientTransformation,
    momentum: float = 0.9,
    nesterov: bool = False,
    trust_coefficient: float = 0.001,
    eps: float = 0.0,
) -> optax.GradientTransformation:
    """LARS (You et al. 2017, algorithm 1). Biases and norm scales take the plain gradient, without the trust ratio.

    Args:
        momentum: how much of the earlier direction is kept.
        nesterov: look ahead along the momentum.
        trust_coefficient: size of a layer's update relative to its weights.
        eps: added to the norm of the gradient.
    """
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps), _kernels)
    return optax.chain(decay, trust, optax.trace(momentum, nesterov))


def lion(
    decay: optax.GradientTransformation,
    b1: float = 0.9,
    b2: float = 0.99,
    mu_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> optax.GradientTransformation:
    """Lion (Chen et al. 2023, algorithm 2): the sign of a momentum.

    Args:
        b1: share of the momentum in the direction.
        b2: decay of the momentum.
        mu_dtype: dtype of the momentum, such as "bfloat16"; None: that of the parameters.
    """
    return optax.chain(optax.scale_by_lion(b1, b2, mu_dtype), decay)


def adafactor(
    decay: optax.GradientTransformation,
    min_dim_size_to_factor: int = 128,
    decay_rate: float = 0.8,
    clipping_threshold: float | None = 1.0,
    multiply_by_parameter_scale: bool = True,
    momentum: float | None = None,
    eps: float = 1e-30,
    factored: bool = True,
) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern 2018, algorithm 4).

    Args:
        min_dim_size_to_factor: arrays whose second-largest axis is shorter keep the full second moment.
        decay_rate: exponent of the second moment's decay.
        clipping_threshold: largest root mean square of an array's update; None does not clip.
        multiply_by_parameter_scale: updates relative to the root mean square of the array.
        momentum: decay of an average of the updates; None keeps none.
        eps: added to squared gradients.
        factored: store row and column sums in place of the second moment.
    """
    steps = [optax.scale_by_factored_rms(factored, decay_rate, 0, min_dim_size_to_factor, eps)]
    if clipping_threshold is not None:
        steps.append(optax.clip_by_block_rms(clipping_threshold))
    if multiply_by_parameter_scale:
        steps.append(optax.scale_by_param_block_rms())
    if momentum is not None:
        steps.append(optax.ema(momentum, debias=False))
    return optax.chain(*steps, decay)


def muon(
    decay: optax.GradientTransformation,
    beta: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    preconditioning: Literal["frobenius", "spectral", "aol", "schatten"] = "frobenius",
    consistent_rms: float | None = 0.2,
    adam_b1: float = 0.9,
    adam_b2: float = 0.95,
    adam_eps: float = 1e-8,
    adam_layers: tuple[str, ...] = ("head", "logits", "classifier"),
    mu_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024): an orthogonalised momentum for the kernels of hidden layers, Adam for everything else.

    A convolution's (height, width, in, out) kernel is a matrix of height * width * in rows; attention's projections
    are matrices over all heads together.

    Args:
        beta: decay of the momentum.
        nesterov: look ahead along the momentum.
        ns_steps: Newton-Schulz iterations.
        preconditioning: how a matrix is scaled before them.
        consistent_rms: root mean square of an update; 0.2 is Adam's, so that its learning rates and decay suit both
            (Liu et al. 2025, section 2.2). None: the original sqrt(max(1, fan_out / fan_in)).
        adam_b1: Adam's decay of the average of gradients.
        adam_b2: Adam's decay of the average of squared gradients.
        adam_eps: added to the root of the latter.
        adam_layers: names of layers (any part of a path) whose kernels are left to Adam, as output layers should be.
        mu_dtype: dtype of both momenta, such as "bfloat16"; None: that of the parameters.
    """

    def method(path: str, leaf: Any) -> str:
        hidden = is_kernel(path) and leaf.ndim >= 2 and not set(adam_layers) & set(path.split("/"))
        return "muon" if hidden else "adam"

    def as_matrices(updates):
        return map_with_path(lambda path, leaf: _matrix_axes(path, leaf.ndim), updates)

    def by_shape(path, update):
        inputs, outputs = (math.prod(update.shape[i] for i in axes) for axes in _matrix_axes(path, update.ndim))
        if consistent_rms is None:
            return update * math.sqrt(max(1.0, outputs / inputs))
        return update * (consistent_rms * math.sqrt(max(inputs, outputs)))

    orthogonal = optax.contrib.scale_by_muon(
        ns_steps=ns_steps,
        beta=beta,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
        preconditioning=preconditioning,
        weight_dimension_numbers=as_matrices,
    )
    orthogonal = optax.chain(orthogonal, optax.stateless(lambda updates, _: map_with_path(by_shape, updates)))
    rest = optax.scale_by_adam(adam_b1, adam_b2, adam_eps, mu_dtype=mu_dtype)
    return optax.chain(optax.partition({"muon": orthogonal, "adam": rest}, partial(map_with_path, method)), decay)


def _matrix_axes(path: str, ndim: int) -> optax.contrib.MuonDimensionNumbers:
    """Which axes of a kernel are a matrix's rows (inputs) and columns (outputs)."""
    layer = path.split("/")[-2] if "/" in path else ""
    inputs = 1 if layer in ("query", "key", "value") else ndim - 1  # attention's (features, heads, size per head)
    return optax.contrib.MuonDimensionNumbers(tuple(range(inputs)), tuple(range(inputs, ndim)))


def _kernels(params: Any) -> Any:
    """Mask of the kernels. Leaves that another mask took away have no leaf here either."""
    return map_with_path(lambda path, _: is_kernel(path), params)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adadelta": adadelta,
    "adafactor": adafactor,
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adam,
    "lamb": lamb,
    "lars": lars,
    "lion": lion,
    "momentum": partial(sgd, momentum=0.9),
    "muon": muon,
    "nesterov": partial(sgd, momentum=0.9, nesterov=True),
    "rmsprop": rmsprop,
    "sgd": sgd,
}
