"""Model inputs of an ONNX file: types, and shapes whose symbolic sizes are given by name."""

from collections.abc import Collection, Iterator, Mapping

import onnx
from onnx import TensorProto

from tinyfleet_compiler.errors import Problem
from tinyfleet_compiler.importers.context import Context
from tinyfleet_compiler.importers.onnx_file import MAX_ELEMENTS

_INPUT_TYPES: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.INT8: "int8", TensorProto.UINT8: "uint8"}


def read_inputs(
    context: Context, inputs: list[onnx.ValueInfoProto], dims: Mapping[str, int], second: Collection[str] = ()
) -> list[Problem]:
    """Define every input in `context`. The batch becomes 1; `dims` gives the other symbolic sizes by name.

    The batch is the first axis; of inputs in `second` the second one where that can be 1.

    Returns what is wrong: one problem an input, and one for names in `dims` that no input has.
    """
    problems: list[Problem] = []
    names = {name for value in inputs for name in _names(value)}
    for value in inputs:
        problems += [
            Problem(value.name, "input", *found) for found in _read(context, value, dims, value.name in second)
        ]
    if unknown := sorted(dims.keys() - names):
        known = f"the model has {', '.join(sorted(names))}" if names else "no size of this model is symbolic"
        problems.append(Problem(", ".join(unknown), "dimension", "is no symbolic dimension of the model", known))
    return problems


def _sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes of an input, symbolic ones by name; one without a name is called by input and axis, `x:2`."""
    sizes = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or f"{value.name}:{i}" for i, d in enumerate(sizes)]


def _names(value: onnx.ValueInfoProto) -> Iterator[str]:
    yield from (size for size in _sizes(value) if isinstance(size, str))


def _read(
    context: Context, value: onnx.ValueInfoProto, dims: Mapping[str, int], second: bool
) -> Iterator[tuple[str, str]]:
    """(reason, help) of what is wrong; defines the input where nothing is."""
    kind = value.type.tensor_type.elem_type
    sizes = _sizes(value)
    if kind not in _INPUT_TYPES:
        yield "is not float32", "export a float32 model, or a quantised one with int8 or uint8 inputs"
        return
    if not 2 <= len(sizes) <= 4:
        yield f"has {len(sizes)} dimensions", "use (N, features), (N, T, features) or (N, C, H, W)"
        return
    at = int(second and len(sizes) > 2 and (sizes[1] == 1 or isinstance(sizes[1], str)))
    size = sizes.pop(at)
    batch = dims.get(size, 1) if isinstance(size, str) else size
    if batch != 1:
        yield f"has a fixed batch of {batch}", "export with batch 1 or a symbolic batch"
        return
    unknown = [s for s in sizes if isinstance(s, str) and s not in dims]
    if unknown:
        asked = " ".join(f"--dim {name}=SIZE" for name in dict.fromkeys(unknown))
        yield f"has symbolic dimensions {', '.join(dict.fromkeys(unknown))}", f"give them: {asked}"
        return
    shape = tuple(dims[s] if isinstance(s, str) else s for s in sizes)
    product = 1.0
    for size in shape:
        product *= float(size)
    if min(shape) < 1 or product > MAX_ELEMENTS:
        yield f"has shape {shape}", f"use positive sizes of at most {MAX_ELEMENTS} elements together"
        return
    context.shapes[value.name] = shape
    if at:
        context.batch_axes[value.name] = at
    context.taken.input_types[value.name] = _INPUT_TYPES[kind]
