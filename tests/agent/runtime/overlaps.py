"""Ops as the compiler writes them, each alone in an image, its output as near to its input as a test wants."""

import struct
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from agent.runtime.images import seal
from agent.runtime.test_runtime_int16 import MODELS, image_of, mixed_image
from tinyfleet_compiler import CompileOptions, compile_model, layout, load_device_class
from tinyfleet_compiler.check_ops import op_bytes
from tinyfleet_compiler.image import Image, ImageOp, read_image
from tinyfleet_compiler.kernels.windows import Geometry
from tinyfleet_compiler.operators import OPERATORS, Element, OpCode, OpFlag, counterpart, tensor_bytes
from tinyfleet_compiler.overlap import pixel_overlap, pixel_overlap_reversed
from tinyfleet_compiler.simulate import run_arena
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_float_islands import CASES, GRID

PLACE, SECOND, ARENA = 4096, 8192, 12_288
"""Where the tensor with the larger elements lies, and a second input, far from the output."""


DIMS = (4, 5, 6)
"""Channels, rows, columns of an input."""


def constants(dims: tuple[int, int, int] = DIMS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    channels, rows, columns = dims
    real = {
        "w": (5, channels, 3, 3),
        "u": (5, 1, 3, 3),
        "row": (1, 5, 1, 1),
        "gamma": (6,),
        "beta": (6,),
    }
    found = {name: rng.normal(size=dims).astype(np.float32) for name, dims in real.items()}
    found |= {"slopes": np.abs(rng.normal(size=(5, 1, 1))).astype(np.float32), "v": rng.normal(size=(6, 7))}
    whole = {"pads": [0, 0, 1, 1, 0, 0, 2, 1], "starts": [1, 1], "ends": [rows, columns], "axes": [2, 3], "three": [3]}
    found["v"] = found["v"].astype(np.float32)
    found["dense"] = rng.normal(size=(5 * rows * columns, 7)).astype(np.float32)
    return found | {name: np.array(values) for name, values in whole.items()} | {"low": np.float32(-0.5)}


def everything(path: Path, *, float_only: bool, dims: tuple[int, int, int] = DIMS) -> Path:
    """An ONNX model of images with every operator whose output may overlap its input."""
    nodes = [
        node("Conv", ["x", "w"], "c", pads=[1] * 4),
        node("Conv", ["c", "u"], "d", pads=[1] * 4, group=5),
        node("MaxPool", ["d"], "mp", kernel_shape=[3, 3], pads=[1] * 4),
        node("AveragePool", ["mp"], "ap", kernel_shape=[3, 3], pads=[1] * 4),
        node("Sigmoid", ["ap"], "s"),
        node("PRelu", ["ap", "slopes"], "p"),
        node("Add", ["p", "ap"], "a"),
        node("Add", ["a", "row"], "ab"),
        node("Sub", ["ab", "s"], "su"),
        node("Mul", ["su", "s"], "mu"),
        node("Div", ["mu", "s"], "di"),
        node("Min", ["di", "d"], "mi"),
        node("Max", ["mi", "c"], "ma"),
        node("Clip", ["ma", "low"], "cl"),
        node("Pad", ["cl", "pads"], "pd"),
        node("Slice", ["pd", "starts", "ends", "axes"], "sl"),
        node("Softmax", ["sl"], "sm", axis=3),
        node("LogSoftmax", ["sm"], "ls", axis=3),
        node("ReduceMean", ["cl"], "y0", axes=[2], keepdims=0),
        node("ReduceMax", ["cl"], "y1", axes=[1], keepdims=0),
        node("ReduceMin", ["cl"], "y2", axes=[1], keepdims=0),
        node("ArgMax", ["cl"], "y3", axis=1, keepdims=0),
        node("Flatten", ["ls"], "y4"),
        node("Flatten", ["cl"], "fl"),
        node("MatMul", ["fl", "dense"], "y5"),
        node("Relu", ["x"], "y6"),
    ]
    outputs = [f"y{index}" for index in range(7)]
    if float_only:
        nodes += [node("Exp", ["x"], "e"), node("Sin", ["e"], "si"), node("Floor", ["si"], "y7")]
        outputs.append("y7")
    return save_model(path, nodes, [1, *dims], constants(dims), outputs=outputs)


def sequence(path: Path) -> Path:
    """The operators of sequences, on (9, 6)."""
    nodes = [
        node("LayerNormalization", ["x", "gamma", "beta"], "n"),
        node("MatMul", ["n", "v"], "m"),
        node("TopK", ["m", "three"], "t"),
        node("ArgMin", ["m"], "i", axis=2, keepdims=0),
    ]
    nodes[2].output.append("ti")
    return save_model(path, nodes, [1, 9, 6], constants(), outputs=["t", "ti", "i"])


@cache
def ops_by_code() -> dict[OpCode, tuple[Image, ImageOp]]:
    """For every operator that some of these models have: an image and the op in it, its distance as compiled."""
    found: dict[OpCode, tuple[Image, ImageOp]] = {}
    with TemporaryDirectory() as name:
        for image in _images(Path(name)):
            for op in image.ops:
                found.setdefault(op.code, (image, op))
    return found


def _images(folder: Path) -> list[Image]:
    whole, real, line = (folder / f"{name}.onnx" for name in ("whole", "real", "line"))
    rng = np.random.default_rng(1)
    everything(whole, float_only=False)
    np.savez(folder / "whole.npz", x=rng.normal(size=(8, *DIMS)).astype(np.float32))
    np.savez(folder / "line.npz", x=rng.normal(size=(8, 9, 6)).astype(np.float32))
    nodes, more, output, _ = CASES["a layer"]
    save_model(folder / "island.onnx", nodes, (1, 3, 4, 4), GRID | more, outputs=(output,), opset=13)
    return [
        *(image_of(folder, name) for name in MODELS),
        mixed_image(folder),
        compiled(whole, folder / "whole.npz"),
        compiled(sequence(line), folder / "line.npz"),
        compiled(everything(real, float_only=True), None, "float32"),
        compiled(folder / "island.onnx", None),
    ]


def compiled(path: Path, calibration: Path | None, element: str = "int8") -> Image:
    options = CompileOptions(type=element)
    device = load_device_class("host")
    result = compile_model(path, device, name="m", version="1", calibration=calibration, options=options)
    return read_image(result.image)


def distance(op: ImageOp, backwards: bool) -> int:
    """Smallest legal input - output (`backwards`: output - input), bytes, as the compiler says it."""
    if "kernel_h" not in op.fields:
        return int(op.overlap_bytes)
    geometry = Geometry(**{name: op.fields[name] for name in Geometry.__dataclass_fields__})
    return (pixel_overlap_reversed if backwards else pixel_overlap)(geometry) * tensor_bytes(op.code, op.fields)[0]


def step_bytes(op: ImageOp) -> int:
    """So much nearer a portable kernel must go wrong: what it writes between two looks at its input.

    A pixel; where channels do not meet also the window, whose taps of a channel are read before it is written; a row;
    the run that a copy moves at once; an element; where elements shrink, the next one's upper byte, since a lower one
    may not show.
    """
    f, (in_bytes, out_bytes) = op.fields, tensor_bytes(op.code, op.fields)
    if in_bytes > out_bytes:
        return 2 * in_bytes - 1
    if "kernel_h" in f:
        count = f["out_c"] * (1 if op.code.name.startswith("CONV") else 1 + f["kernel_w"])
    elif counterpart(op.code) in (OpCode.PAD, OpCode.STRIDED_COPY):
        count = f["dims"][-1]
    else:
        count = f["out_features"] if "in_features" in f else f.get("k", 1)
    return int(count) * out_bytes


def alone(image: Image, op: ImageOp, distance: int, *, told: int | None = None, backwards: bool = False) -> bytes:
    """An image of this op: input - output (`backwards`: output - input) is `distance`, and the record says `told`.

    Its input is the whole arena, so that every operand is random; its output is the op's.
    """
    size = op_bytes(op.code, op.fields)[1]
    in_bytes, out_bytes = tensor_bytes(op.code, op.fields)
    above = -distance if backwards else distance
    source, output = (PLACE + above, PLACE) if in_bytes < out_bytes else (PLACE, PLACE - above)
    fields = op.fields | {"input": source, "output": output, "overlap_bytes": distance if told is None else told}
    fields["flags"] = op.flags & ~OpFlag.REVERSED | (OpFlag.REVERSED if backwards else OpFlag.NONE)
    fields |= {"scratch": layout.NO_OFFSET, "scratch_bytes": 0}
    if "input_b" in fields and not op.flags & OpFlag.CONSTANT_B:
        fields["input_b"] = SECOND
    old = layout.HEADER.unpack(image.data)
    ends = [_io(old, 0, ARENA), _io(old, output, size)]
    record = layout.RECORDS[OPERATORS[op.code].record].pack(fields)
    golden = layout.GOLDEN.pack({"vector_count": 1, "op_count": 1, "crc32": 0}) + struct.pack("<I", 1)
    at = len(image.data)
    places = {"io_offset": at, "ops_offset": at + len(b"".join(ends))}
    places["golden_offset"] = places["ops_offset"] + len(record)
    data = image.data + b"".join(ends) + record + golden
    data += bytes(-len(data) % layout.SECTION_ALIGN)
    new = {"image_bytes": len(data), "arena_bytes": ARENA, "input_count": 1, "output_count": 1, "op_count": 1}
    new |= {"ops_bytes": len(record), "golden_bytes": len(golden), "cascades_bytes": 0, "scratch_bytes": 0}
    return seal(layout.HEADER.pack(old | places | new) + data[layout.HEADER.size :])


def _io(header: dict[str, Any], offset: int, size: int) -> bytes:
    values = {"arena_offset": offset, "size_bytes": size, "element": Element.INT8, "rank": 1, "dims": (size, 1, 1, 1)}
    more = {"scale": 1.0, "zero_point": 0, "source_layout": 0, "name_offset": header["name_offset"]}
    return layout.IO.pack(values | more)


def arena_for(op: ImageOp, seed: int = 0) -> np.ndarray:
    """(ARENA,) int8: random codes, or positive floats for an operator that reads floats."""
    rng = np.random.default_rng((int(op.code), seed))
    element = op.fields.get("input_element", OPERATORS[op.code].element)
    if element == Element.FLOAT32:
        return rng.uniform(0.1, 2.0, ARENA // 4).astype("<f4").view(np.int8)
    return rng.integers(-128, 128, ARENA).astype(np.int8)


def expected(image: Image, arena: np.ndarray) -> np.ndarray:
    """What the simulator, which computes whole tensors, gives."""
    found: list[np.ndarray] = []
    run_arena(image, arena.reshape(1, -1).copy(), lambda _, output: found.append(output.copy()))
    return found[0].ravel().view(np.int8)


def as_code(op: ImageOp, code: OpCode) -> ImageOp:
    """The same record under another operator's code."""
    return replace(op, code=code, fields=op.fields | {"code": int(code)})
