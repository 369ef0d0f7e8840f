"""What a network does, read from its traced program: multiply-adds, shapes and receptive fields of each module.

Nothing is computed: the network is traced with shapes, and the equations are counted wherever they are nested.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.extend import core

from vision.models import variable_shapes


class Field(NamedTuple):
    """How much of the image a value of an array depends on, along height and width (Araujo et al. 2019, Distill).

    Attributes:
        axes: the array's axes that run over the image: (height, width), or one axis of patches.
        size: (height, width) in pixels that one value sees; larger than the image where it sees padding too.
        stride: (vertical, horizontal) pixels between neighbouring values.
    """

    axes: tuple[int, ...]
    size: tuple[int, int]
    stride: tuple[int, int]


WHOLE = Field((), (0, 0), (0, 0))  # depends on every pixel


@dataclasses.dataclass
class Layer:
    """A module, or a pooling that is not one.

    Attributes:
        path: "stage_1/block_1/conv_1"; "" for the network.
        kind: name of the module's class, or "max pooling" or "average pooling".
        shape: of the output, for one image; None where it computes nothing.
        dtype: of the output.
        field: of the output; None where it does not depend on the image.
        multiply_adds: of the layer itself, without those of modules in it.
        repeats: how often it runs, for blocks that are scanned over.
    """

    path: str
    kind: str
    shape: tuple[int, ...] | None = None
    dtype: Any = None
    field: Field | None = None
    multiply_adds: int = 0
    repeats: int = 1


def trace(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> tuple[list[Layer], dict[str, Any]]:
    """The network's modules and poolings in the order in which they run, and the shapes of its variables.

    Args:
        model: the network.
        image_size: (height, width) in pixels.
        channels: of the image.
    """
    shapes = variable_shapes(model, (*image_size, channels))
    layers: dict[str, Layer] = {}

    def note(call, arguments, keywords, context):
        if context.method_name == "__call__":
            path = "/".join(context.module.path)
            layers.setdefault(path, Layer(path, type(context.module).__name__))
        return call(*arguments, **keywords)

    def run(variables, image):
        with nn.intercept_methods(note):
            return model.apply(variables, image, train=False)

    with nn.override_named_call(True):
        program = jax.make_jaxpr(run)(shapes, jax.ShapeDtypeStruct((1, *image_size, channels), np.float32)).jaxpr
    fields = {program.invars[-1]: Field((1, 2), (1, 1), (1, 1))}
    _Walk(layers, image_size).walk(program, fields, (), 1)
    return list(layers.values()), shapes


class _Walk:
    """Goes through a program's equations in order and adds what it sees to the layers."""

    def __init__(self, layers: dict[str, Layer], image_size: tuple[int, int]):
        self.layers, self.image_size = layers, image_size
        self._parents = {path.rpartition("/")[0] for path in layers if path}
        self._poolings: dict[tuple[str, str], int] = {}

    def walk(self, program: Any, fields: dict, scopes: tuple[str, ...], repeats: int) -> None:
        for equation in program.eqns:
            here = (*scopes, *str(equation.source_info.name_stack).split("/"))
            inputs = [fields.get(v) if isinstance(v, core.Var) else None for v in equation.invars]
            outputs = self._nested(equation, inputs, here, repeats)
            if outputs is None:
                outputs = [_propagate(equation, inputs)] * len(equation.outvars)
            fields |= {var: field for var, field in zip(equation.outvars, outputs, strict=True) if field is not None}
            self._note(equation, self._module(here), outputs[0] if outputs else None, repeats)

    def _nested(self, equation: Any, inputs: list, scopes: tuple[str, ...], repeats: int) -> list | None:
        """Fields of the outputs of an equation with a program in it; None for one without."""
        name, parameters = equation.primitive.name, equation.params
        operands = list(zip(equation.invars, inputs, strict=True))
        if name == "cond":  # the last branch is the default: of the formulations by platform, the textbook one
            inner, operands = parameters["branches"][-1], operands[1:]
        elif name == "while":
            inner, operands = parameters["body_jaxpr"], operands[parameters["cond_nconsts"] :]
        else:
            inner = next((parameters[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in parameters), None)
            if inner is None:
                return None
        repeats *= parameters["length"] if name == "scan" else 1
        inner = getattr(inner, "jaxpr", inner)
        fields = {}
        for var, (outer, field) in zip(inner.invars, operands, strict=True):
            if field is not None:
                fields[var] = _moved_axes(field, len(var.aval.shape) - len(outer.aval.shape))  # scanned over: one less
        self.walk(inner, fields, scopes, repeats)
        found = [(v.aval, fields.get(v) if isinstance(v, core.Var) else None) for v in inner.outvars]
        pairs = zip(equation.outvars, found, strict=True)
        return [_moved_axes(field, len(outer.aval.shape) - len(aval.shape)) for outer, (aval, field) in pairs]

    def _module(self, scopes: Sequence[str]) -> str:
        """The innermost module of a stack of scopes: the first is the network, others need not be modules."""
        path = ""
        for scope in scopes:
            longer = f"{path}/{scope}" if path else scope
            path = longer if longer in self.layers else path
        return path

    def _note(self, equation: Any, module: str, field: Field | None, repeats: int) -> None:
        """Adds an equation to its module; its output is that of every module it is in, until a later one's."""
        if not equation.outvars:
            return
        result = equation.outvars[0].aval
        for path in _with_parents(module):
            layer = self.layers[path]
            layer.shape, layer.dtype, layer.field, layer.repeats = tuple(result.shape), result.dtype, field, repeats
        self.layers[module].multiply_adds += repeats * _multiply_adds(equation)
        kind = _pooling(equation, field)
        if kind and module in self._parents:
            name = "max_pool" if kind == "max pooling" else "average_pool"
            count = self._poolings[module, name] = self._poolings.get((module, name), 0) + 1
            path = f"{module}/{name}_{count}".removeprefix("/")
            self._insert(Layer(path, kind, tuple(result.shape), result.dtype, field, 0, repeats))

    def _insert(self, layer: Layer) -> None:
        """Puts a pooling after the modules that ran before it: those with an output by now."""
        done = [path for path, other in self.layers.items() if other.shape is not None]
        rest = {path: other for path, other in self.layers.items() if other.shape is None}
        before = {path: self.layers[path] for path in done}
        self.layers.clear()
        self.layers.update(before | {layer.path: layer} | rest)


def _with_parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""


def _multiply_adds(equation: Any) -> int:
    """Multiplications of a convolution or matrix product; 0 for anything else."""
    if equation.primitive.name == "dot_general":
        left = equation.invars[0].aval.shape
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        products = math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
        # A transposed convolution sees its input with zeros between: they are not multiplied by.
        return products // math.prod(equation.params["lhs_dilation"])
    return 0


def _pooling(equation: Any, field: Field | None) -> str | None:
    """What a pooling over windows of the image is called; None for anything else, such as sums over channels."""
    name = equation.primitive.name
    if not name.startswith("reduce_window") or field is None:
        return None
    window = equation.params["window_dimensions"]
    if all(window[axis] == 1 for axis in field.axes):
        return None
    return "max pooling" if name in ("reduce_window_max", "reduce_window") else "average pooling"


def _propagate(equation: Any, inputs: list[Field | None]) -> Field | None:
    """The field of an equation's outputs from those of its inputs; None where it does not depend on the image."""
    known = [(index, field) for index, field in enumerate(inputs) if field is not None]
    if not known:
        return None
    if any(field is WHOLE for _, field in known):
        return WHOLE
    name, parameters = equation.primitive.name, equation.params
    result = equation.outvars[0].aval.shape
    index, first = known[0]
    shape = equation.invars[index].aval.shape
    if name == "conv_general_dilated":
        return _convolved(equation, first)
    if name.startswith("reduce_window"):
        windows = zip(parameters["window_dimensions"], parameters["window_strides"], strict=True)
        return _windowed(first, [*windows], parameters.get("window_dilation") or (1,) * len(shape))
    if name == "dot_general":
        return _product(equation, inputs)
    if name == "transpose":
        return first._replace(axes=tuple(parameters["permutation"].index(axis) for axis in first.axes))
    if name == "broadcast_in_dim":
        return first._replace(axes=tuple(parameters["broadcast_dimensions"][axis] for axis in first.axes))
    if name in ("reshape", "squeeze", "expand_dims"):
        return _reshaped(first, shape, result)
    if name == "slice":
        steps = parameters["strides"] or (1,) * len(shape)
        return _windowed(first, [(1, step) for step in steps], (1,) * len(shape))
    if "axes" in parameters and len(result) < len(shape):  # a reduction
        removed = parameters["axes"]
        if any(axis in removed for axis in first.axes):
            return WHOLE
        return first._replace(axes=tuple(axis - sum(other < axis for other in removed) for axis in first.axes))
    fields = [f for i, f in known if len(equation.invars[i].aval.shape) == len(result)]
    if len(fields) < len(known) or name.startswith(("cum", "sort", "gather", "scatter", "rev", "fft")):
        return WHOLE
    largest = max(fields, key=lambda field: field.size)
    axes = tuple(sorted({axis for field in fields for axis in field.axes}))
    return largest._replace(axes=axes)


def _convolved(equation: Any, field: Field) -> Field:
    parameters = equation.params
    image_axes = parameters["dimension_numbers"].lhs_spec[2:]
    if len(field.axes) != 2 or set(field.axes) != set(image_axes):
        return WHOLE
    kernel = equation.invars[1].aval.shape
    sizes = [kernel[axis] for axis in parameters["dimension_numbers"].rhs_spec[2:]]
    windows = {axis: (k, s) for axis, k, s in zip(image_axes, sizes, parameters["window_strides"], strict=True)}
    dilation = dict(zip(image_axes, parameters["rhs_dilation"], strict=True))
    upsampling = dict(zip(image_axes, parameters["lhs_dilation"], strict=True))
    if max(upsampling.values()) > 1:
        field = field._replace(stride=tuple(s / upsampling[a] for s, a in zip(field.stride, field.axes, strict=True)))
    rank = len(equation.invars[0].aval.shape)
    grown = _windowed(field, [windows.get(i, (1, 1)) for i in range(rank)], [dilation.get(i, 1) for i in range(rank)])
    out_axes = dict(zip(image_axes, parameters["dimension_numbers"].out_spec[2:], strict=True))
    return grown._replace(axes=tuple(out_axes[axis] for axis in grown.axes))


def _windowed(field: Field, windows: Sequence[tuple[int, int]], dilation: Sequence[int]) -> Field:
    """The field after windows (size, step) over each axis: it grows by size - 1 strides; step multiplies the stride."""
    if len(field.axes) != 2:
        return field if all(windows[axis] == (1, 1) for axis in field.axes) else WHOLE
    size, stride = [], []
    for axis, seen, jump in zip(field.axes, field.size, field.stride, strict=True):
        window, step = windows[axis]
        size.append(seen + (window - 1) * dilation[axis] * jump)
        stride.append(jump * step)
    return field._replace(size=tuple(size), stride=tuple(stride))


def _product(equation: Any, inputs: list[Field | None]) -> Field:
    """The field of a matrix product: a sum over the image sees all of it."""
    contracted, batch = equation.params["dimension_numbers"]
    axes: list[int] = []
    sizes = []
    shapes = [v.aval.shape for v in equation.invars]
    free = [[a for a in range(len(s)) if a not in (*contracted[i], *batch[i])] for i, s in enumerate(shapes)]
    for side, field in enumerate(inputs):
        if field is None:
            continue
        if any(axis in contracted[side] for axis in field.axes):
            return WHOLE
        order = [*batch[side], *(free[0] if side == 0 else [None] * len(free[0]) + free[1])]
        axes += [order.index(axis) for axis in field.axes]
        sizes.append(field)
    largest = max(sizes, key=lambda field: field.size)
    return largest._replace(axes=tuple(sorted(set(axes))))


def _reshaped(field: Field, shape: Sequence[int], result: Sequence[int]) -> Field:
    """The field with its axes where a reshape takes them: split or merged with their neighbours."""
    axes, i, j = [], 0, 0
    while i < len(shape) or j < len(result):
        start_i, start_j = i, j
        left = right = 1
        i, j = min(i + 1, len(shape)), min(j + 1, len(result))
        left, right = math.prod(shape[start_i:i]), math.prod(result[start_j:j])
        while left != right:
            if (left < right and i < len(shape)) or j == len(result):
                i += 1
            else:
                j += 1
            left, right = math.prod(shape[start_i:i]), math.prod(result[start_j:j])
        if any(start_i <= axis < i for axis in field.axes):
            axes += [axis for axis in range(start_j, j) if result[axis] != 1] or [max(start_j, j - 1)]
    return field._replace(axes=tuple(axes))


def _moved_axes(field: Field | None, by: int) -> Field | None:
    if field is None or field is WHOLE:
        return field
    axes = tuple(axis + by for axis in field.axes)
    return field._replace(axes=axes) if min(axes, default=0) >= 0 else WHOLE
