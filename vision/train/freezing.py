"""Frozen parameters in the training step: no gradient is computed for them, and batch norms among them stand still."""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import flax.linen as nn
import jax

from vision.train.parameters import map_with_path


def stop_gradients(params: Any, frozen: Collection[str]) -> Any:
    """The parameters, those at the frozen paths as constants: the backward pass ends where only such are left."""
    if not frozen:
        return params
    return map_with_path(lambda path, leaf: jax.lax.stop_gradient(leaf) if path in frozen else leaf, params)


@contextlib.contextmanager
def stored_statistics(frozen: Collection[str]) -> Iterator[None]:
    """Within it, a batch norm with frozen parameters normalises with its stored statistics, and leaves them alone.

    A frozen feature extractor gives the same features while training as in evaluation; with the statistics of each
    batch it would be another network than the one whose weights were loaded.
    """
    if not frozen:
        yield
        return

    def intercept(call, arguments, keywords, context):
        module = context.module
        if not isinstance(module, nn.BatchNorm) or context.method_name != "__call__":
            return call(*arguments, **keywords)
        path = "/".join(module.path)
        if f"{path}/scale" not in frozen and f"{path}/bias" not in frozen:
            return call(*arguments, **keywords)
        still = module.clone(parent=None, name=None, use_running_average=True)
        return still.apply(module.variables, *arguments)

    with nn.intercept_methods(intercept):
        yield
