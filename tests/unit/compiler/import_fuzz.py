"""Hostile model files by the seed, and a child process that checks them under limits of time and memory.

`python -m unit.compiler.import_fuzz FIRST COUNT FOLDER` (in tests/) prints one JSON document. A file is a failure
when `check_model` raises, takes longer than CPU_S, asks for more than MEMORY_BYTES, writes, or reads outside FOLDER.
"""

import json
import os
import random
import resource
import signal
import struct
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tinyfleet_compiler import check_model, load_device_class
from unit.compiler.onnx_models import node, save_model, small_cnn

CPU_S = 10.0
MEMORY_BYTES = 3 << 30
EXTREMES = (0, 1, -1, 2, 7, 127, 255, 65535, 1 << 20, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))
REALS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, float("nan"), float("inf"), -float("inf"))
WORDS = (b"", b"x", b"y", b"../../../etc/passwd", b"/etc/passwd", b"\xff\xfe", b"a" * 300, b"If", b"SAME_UPPER")


def quantized_onnx(path: Path) -> bytes:
    """A QDQ layer: scales and zero points to bend."""
    constants: dict[str, Any] = {"s": np.float32(0.05), "z": np.int8(3), "ws": np.float32(0.01), "wz": np.int8(0)}
    constants |= {"w": np.arange(24, dtype=np.int8).reshape(6, 4), "k": np.array([1, 3, 2])}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "xq"),
        node("DequantizeLinear", ["xq", "s", "z"], "xd"),
        node("DequantizeLinear", ["w", "ws", "wz"], "wd"),
        node("MatMul", ["xd", "wd"], "m"),
        node("QuantizeLinear", ["m", "s", "z"], "yq"),
        node("DequantizeLinear", ["yq", "s", "z"]),
    ]
    return save_model(path, nodes, [1, 3, 6], constants).read_bytes()


def attention_onnx(path: Path) -> bytes:
    """Products, transposes, reshapes, a normalisation and a top-k."""
    nodes = [
        node("Reshape", ["x", "r"], "h"),
        node("Transpose", ["h"], "q", perm=[0, 2, 1, 3]),
        node("Transpose", ["h"], "k", perm=[0, 2, 3, 1]),
        node("MatMul", ["q", "k"], "s"),
        node("Softmax", ["s"], "p", axis=-1),
        node("MatMul", ["p", "q"], "o"),
        node("LayerNormalization", ["o", "g"], "n"),
        node("Pad", ["n", "pads"], "e", mode="reflect"),
        helper.make_node("TopK", ["e", "two"], ["y", "i"], name="top"),
    ]
    constants = {"r": np.array([1, 4, 2, 3]), "g": np.ones(3, np.float32), "two": np.array([2])}
    constants["pads"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    return save_model(path, nodes, [1, 4, 6], constants, outputs=("y", "i")).read_bytes()


def both_ways_onnx(path: Path) -> bytes:
    """A recurrent layer both ways that begins with a constant, and the operator Attention with a mask."""
    rng = np.random.default_rng(1)
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        helper.make_node(
            "LSTM", ["t", "w", "r", "b", "", "h", "h"], ["rows"], name="both", direction="bidirectional", hidden_size=2
        ),
        node("Transpose", ["rows"], "u", perm=[2, 0, 1, 3]),
        node("Reshape", ["u", "flat"], "f"),
        node("Attention", ["f", "f", "f", "m"], q_num_heads=2, kv_num_heads=2, is_causal=1),
    ]
    constants: dict[str, Any] = {"flat": np.array([1, 4, 4]), "m": np.ones((4, 4), np.bool_)}
    sizes = {"w": (2, 8, 6), "r": (2, 8, 2), "b": (2, 16), "h": (2, 1, 2)}
    constants |= {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    return save_model(path, nodes, [1, 4, 6], constants, opset=23).read_bytes()


def onnx_bases(folder: Path) -> list[bytes]:
    """Small good files that mutations begin from."""
    path = folder / "base.onnx"
    small_cnn(path)
    return [path.read_bytes(), quantized_onnx(path), attention_onnx(path), both_ways_onnx(path)]


# ---- bytes


def flip(rng: random.Random, data: bytes) -> bytes:
    """Some bytes become others."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    """The end, the beginning or a piece in the middle is missing, or there twice."""
    first, last = sorted(rng.randrange(len(data)) for _ in range(2))
    return rng.choice((data[:first], data[first:], data[:first] + data[last:], data[:last] + data[first:]))


def wild_words(rng: random.Random, data: bytes) -> bytes:
    """Aligned 32-bit words (offsets, lengths, sizes of a flatbuffer) become extremes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) // 4) * 4
        struct.pack_into("<I", changed, at, rng.choice(EXTREMES) & 0xFFFFFFFF)
    return bytes(changed[: len(data)])


def _field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes((number << 3 | 2,)) + bytes(length) + bytes((size,)) + content


def nested(rng: random.Random, data: bytes) -> bytes:
    """If nodes inside one another, deeper than any reader should follow; a second graph field merges into the first."""
    inner = b""
    for _ in range(rng.choice((1, 20, 60, 99, 3000))):
        attribute = _field(1, b"then_branch") + _field(6, inner) + bytes((0xA0, 1, 5))
        inner = _field(1, _field(1, b"x") + _field(2, b"n") + _field(4, b"If") + _field(5, attribute))
    return data + _field(7, inner)


BYTE_MUTATIONS = (flip, cut, wild_words)

# ---- ONNX, by its structure

OnnxMutation = Callable[[random.Random, onnx.ModelProto], None]


def bend_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    """An attribute holds an extreme, or nothing, or belongs to another node."""
    nodes = [n for n in model.graph.node if n.attribute]
    if nodes:
        attribute = rng.choice(rng.choice(nodes).attribute)
        attribute.i, attribute.f, attribute.s = rng.choice(EXTREMES), rng.choice(REALS), rng.choice(WORDS)
        for at in range(len(attribute.ints)):
            if rng.random() < 0.5:
                attribute.ints[at] = rng.choice(EXTREMES)
        if rng.random() < 0.2:
            del attribute.ints[:]
        if rng.random() < 0.1:
            attribute.ints.extend([1] * 100_000)


def bend_tensor(rng: random.Random, model: onnx.ModelProto) -> None:
    """An initialiser has other dimensions, another type, other contents, or is gone."""
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(6):
        case 0 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(EXTREMES)
        case 1:
            tensor.data_type = rng.randrange(0, 25)
        case 2:
            model.graph.initializer.remove(tensor)
        case 3:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(("../secret", "/etc/passwd", "loop", "absent")))
        case 4 if tensor.data_type == TensorProto.FLOAT:
            tensor.raw_data = struct.pack("<f", rng.choice(REALS)) + tensor.raw_data[4:]
        case _:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]


def rewire(rng: random.Random, model: onnx.ModelProto) -> None:
    """Inputs and outputs name other tensors: cycles, duplicates, tensors that nobody writes."""
    names = [name for n in model.graph.node for name in (*n.input, *n.output)] + ["", "nothing"]
    for _ in range(rng.randint(1, 3)):
        chosen = rng.choice(model.graph.node)
        side = rng.choice((chosen.input, chosen.output))
        if side:
            side[rng.randrange(len(side))] = rng.choice(names)


def change_operator(rng: random.Random, model: onnx.ModelProto) -> None:
    """A node is another operator, or of another domain."""
    chosen = rng.choice(model.graph.node)
    kinds = [n.op_type for n in model.graph.node]
    chosen.op_type = rng.choice(
        [*kinds, "If", "Loop", "Scan", "Resize", "Gather", "Tile", "Expand", "Einsum", "ConvTranspose"]
    )
    chosen.domain = rng.choice(("", "", "com.microsoft", "ai.onnx.ml"))


def bend_input(rng: random.Random, model: onnx.ModelProto) -> None:
    """A model input has other sizes or another type."""
    sizes = model.graph.input[0].type.tensor_type
    sizes.elem_type = rng.choice((1, 1, 1, 0, 2, 3, 7, 10, 16))
    if sizes.shape.dim:
        sizes.shape.dim[rng.randrange(len(sizes.shape.dim))].dim_value = rng.choice(EXTREMES)
    for _ in range(rng.choice((0, 0, 1, 40))):
        sizes.shape.dim.add(dim_value=rng.choice((1, 2, 1 << 40)))


def repeat(rng: random.Random, model: onnx.ModelProto) -> None:
    """One field many times over: nodes, outputs, opsets, metadata."""
    times = rng.choice((2, 50, 2000))
    match rng.randrange(4):
        case 0:
            model.graph.node.extend([rng.choice(model.graph.node)] * times)
        case 1:
            model.graph.output.extend([model.graph.output[0]] * times)
        case 2:
            model.opset_import.extend([helper.make_opsetid("", rng.choice((1, 11, 99)))] * times)
        case _:
            last = model.graph.node[-1].output[0]
            chain = [node("Relu", [last if i == 0 else f"chain{i}"], f"chain{i + 1}") for i in range(times)]
            model.graph.node.extend(chain)
            model.graph.output[0].name = f"chain{times}"


def bend_opset(rng: random.Random, model: onnx.ModelProto) -> None:
    """Another opset, or none."""
    if rng.random() < 0.2:
        del model.opset_import[:]
    elif model.opset_import:
        model.opset_import[0].version = rng.choice((1, 8, 11, 12, 13, 18, 22, 23, 99, -1, 1 << 40))


ONNX_MUTATIONS: tuple[OnnxMutation, ...] = (
    *(bend_attribute, bend_tensor, bend_tensor, rewire, change_operator, bend_input, repeat, bend_opset),
)


def hostile_onnx(rng: random.Random, bases: list[bytes]) -> bytes:
    """A file bent in its bytes or in its structure."""
    base = rng.choice(bases)
    if rng.random() < 0.3:
        return rng.choice((*BYTE_MUTATIONS, nested))(rng, base)
    model = onnx.load_model_from_string(base)
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice(ONNX_MUTATIONS)(rng, model)
    return model.SerializeToString()


def hostile_tflite(rng: random.Random, bases: list[bytes]) -> bytes:
    """A flatbuffer with other bytes: offsets, lengths, sizes, scales and indices all lie in 32-bit words."""
    data = rng.choice(bases)
    for _ in range(rng.choice((1, 1, 2))):
        data = rng.choice((*BYTE_MUTATIONS, wild_words, wild_reals))(rng, data) or b"\0"
        data = data if len(data) >= 8 else data + bytes(8)
    return data


def wild_reals(rng: random.Random, data: bytes) -> bytes:
    """Aligned words become reals: scales that are zero, negative, NaN."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        struct.pack_into("<f", changed, rng.randrange(len(data) // 4) * 4, rng.choice(REALS))
    return bytes(changed[: len(data)])


# ---- the child


class Watch:
    """What the interpreter opens: an audit hook cannot be taken off, so it is switched."""

    def __init__(self, folder: Path) -> None:
        own = (sysconfig.get_paths()["stdlib"], sys.prefix, sys.base_prefix, str(Path(__file__).parents[3]))
        self.allowed = (str(folder.resolve()), *own)
        self.on = False
        self.wrong: list[str] = []
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or event not in (
            "open",
            "os.remove",
            "os.rename",
            "os.mkdir",
            "subprocess.Popen",
            "socket.connect",
        ):
            return
        name, mode = str(arguments[0]), str(arguments[1]) if len(arguments) > 1 else ""
        reads = event == "open" and not set(mode) & set("wax+")
        if not reads or not os.path.realpath(name).startswith(self.allowed):
            self.wrong.append(f"{event} {name} {mode}")


def check_one(path: Path, watch: Watch) -> dict[str, Any]:
    """Check one file: what came out, CPU seconds, and what went wrong."""
    start, found = time.process_time(), {"error": ""}
    watch.wrong, watch.on = [], True
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        report = check_model(path, load_device_class("cortex-m4"))
        found["outcome"] = "fits" if report.fits else "problems"
        if not report.fits and not all(p.reason and p.help for p in report.problems):
            found["error"] = "a problem without a reason or help"
    except BaseException as error:  # whatever it is: the report should have named it
        found |= {"outcome": "raised", "error": f"{type(error).__name__}: {str(error)[:200]}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        watch.on = False
    if watch.wrong:
        found["error"] = f"touched {watch.wrong[:3]}"
    return found | {"cpu_s": round(time.process_time() - start, 3)}


def limit() -> None:
    """The rest of this process runs under the limits."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))

    def too_long(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {CPU_S} s of CPU")

    signal.signal(signal.SIGPROF, too_long)


def run(first: int, count: int, folder: Path) -> dict[str, Any]:
    """Check `count` files from seed `first` on."""
    from unit.compiler.import_fuzz_tflite import tflite_bases

    bases = {"onnx": onnx_bases(folder), "tflite": tflite_bases()}
    watch = Watch(folder)
    limit()
    outcomes: dict[str, int] = {}
    failures, worst = [], 0.0
    (folder / "loop").symlink_to("loop")
    for seed in range(first, first + count):
        kind = "onnx" if seed % 2 else "tflite"
        rng = random.Random(seed)
        path = folder / f"m.{kind}"
        path.write_bytes((hostile_onnx if kind == "onnx" else hostile_tflite)(rng, bases[kind]))
        found = check_one(path, watch)
        outcomes[found["outcome"]] = outcomes.get(found["outcome"], 0) + 1
        worst = max(worst, found["cpu_s"])
        if found["error"]:
            failures.append({"seed": seed, "kind": kind, "error": found["error"]})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"files": count, "outcomes": outcomes, "worst_cpu_s": worst, "peak_rss_bytes": peak, "failures": failures}


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
