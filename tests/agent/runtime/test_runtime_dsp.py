"""DSP and Helium kernels on emulated cores: images of many random ops whose golden record holds every op's bytes."""

import math
import shutil
from typing import Any

import numpy as np
import pytest

from agent.runtime import reference
from agent.runtime.images import Channels, ImageBuilder, Io, Op, seal
from tinyfleet_compiler import layout, numerics
from tinyfleet_compiler.image import Golden, read_image
from tinyfleet_compiler.operators import OpCode, OpFlag
from tinyfleet_compiler.simulate import golden_crc
from tinyfleet_service.cli.engines import cortex_m, simulator
from tinyfleet_service.errors import InvalidInputError

MISSING = [tool for tool in cortex_m.TOOLS if shutil.which(tool) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")]
ARENA = 24_000
SCRATCH = 4 * 31 * 16
"""Behind what ops read and write, since its content differs between engines."""
SEED = 77


def scales(rng: Any, count: int, taps: int) -> Channels:
    """Mostly right shifts; some channels go up, some have biases near the limit of 32 bits."""
    real = 2.0 ** rng.uniform(-6, 1, count) / math.sqrt(taps) / 60
    real[rng.random(count) < 0.05] = rng.uniform(0.6, 3.0)
    multipliers, shifts = (np.array(c) for c in zip(*map(numerics.quantize_multiplier, real.tolist()), strict=True))
    biases = rng.integers(-(2**14), 2**14, count)
    extreme = rng.random(count) < 0.03
    biases[extreme & (shifts < 0)] = rng.choice([-(2**30) - 2**29, -(2**29), 2**29, 2**30])
    return Channels(multipliers, shifts, biases)


def limits(rng: Any) -> dict[str, int]:
    narrow = rng.random() < 0.3
    return {
        "input_zero_point": int(rng.integers(-128, 128)),
        "output_zero_point": int(rng.integers(-128, 128)),
        "activation_min": -5 if narrow else -128,
        "activation_max": 90 if narrow else 127,
    }


def window(rng: Any) -> dict[str, int]:
    op: dict[str, int] = {}
    for axis, pad in (("h", "pad_top"), ("w", "pad_left")):
        size = op[f"in_{axis}"] = int(rng.integers(1, 9))
        step = op[f"dilation_{axis}"] = int(rng.choice([1, 1, 1, 2]))
        kernel = op[f"kernel_{axis}"] = int(rng.choice([1, 1, 2, 3, 3, 4]))
        stride = op[f"stride_{axis}"] = int(rng.integers(1, 4))
        op[pad] = int(rng.integers(0, (kernel - 1) * step + 1))
        op[f"out_{axis}"] = int(rng.integers(1, (size - 1 + op[pad]) // stride + 2))
    return op | limits(rng)


def place(rng: Any, op: dict[str, int], size_in: int, size_out: int, distance: int) -> None:
    """Apart, or the output at its smallest legal distance from the input: below it, above it where REVERSED."""
    op["input"] = int(rng.integers(0, ARENA // 2 - size_in))
    op["output"] = int(rng.integers(ARENA // 2, ARENA - size_out))
    if rng.random() < 0.5 and 0 <= op["input"] - distance <= ARENA - size_out:
        op |= {"output": op["input"] - distance, "overlap_bytes": distance}


def place_window(rng: Any, op: dict[str, int], size_in: int, size_out: int) -> None:
    if rng.random() < 0.5:
        place(rng, op, size_in, size_out, reference.window_distance(op))
        return
    op["flags"] = OpFlag.REVERSED
    distance = reference.reversed_window_distance(op)
    place(rng, op, size_in, size_out, -distance)
    if "overlap_bytes" in op:
        op["overlap_bytes"] = distance


def conv(rng: Any) -> Op:
    in_c, out_c = int(rng.choice([1, 3, 4, 8, 12, 20, 31])), int(rng.integers(1, 20))
    op = window(rng) | {"in_c": in_c, "out_c": out_c, "groups": 1}
    if rng.random() < 0.1:
        op |= {"in_c": 8, "out_c": 6, "groups": 2}
    weights = random_bytes(rng, op["out_c"], op["kernel_h"], op["kernel_w"], op["in_c"] // op["groups"])
    size_in, size_out = (op[f"{s}_h"] * op[f"{s}_w"] * op[f"{s}_c"] for s in ("in", "out"))
    place_window(rng, op, size_in, size_out)
    if weights[0].size > 96 and rng.random() < 0.7:
        op |= {"scratch": ARENA, "scratch_bytes": 4 * weights[0].size}
    return Op(OpCode.CONV_2D, op, weights, scales(rng, op["out_c"], weights[0].size))


def depthwise(rng: Any) -> Op:
    in_c = int(rng.choice([1, 3, 4, 7, 8, 64, 70, 130]))
    op = window(rng) | {"in_c": in_c, "out_c": in_c * int(rng.choice([1, 1, 1, 2])), "groups": in_c}
    op |= {"in_h": min(op["in_h"], 5), "in_w": min(op["in_w"], 5)}
    for axis, pad in (("h", "pad_top"), ("w", "pad_left")):
        op[f"out_{axis}"] = min(op[f"out_{axis}"], (op[f"in_{axis}"] - 1 + op[pad]) // op[f"stride_{axis}"] + 1)
    weights = random_bytes(rng, op["out_c"], op["kernel_h"], op["kernel_w"], 1)
    size_in, size_out = (op[f"{s}_h"] * op[f"{s}_w"] * op[f"{s}_c"] for s in ("in", "out"))
    place_window(rng, op, size_in, size_out)
    return Op(OpCode.DEPTHWISE_CONV_2D, op, weights, scales(rng, op["out_c"], weights[0].size))


def fully_connected(rng: Any) -> Op:
    rows, features, outputs = int(rng.integers(1, 4)), int(rng.integers(1, 200)), int(rng.integers(1, 40))
    op = {"rows": rows, "in_features": features, "out_features": outputs} | limits(rng)
    distance = max((r + 1) * outputs - r * features for r in range(rows))
    place(rng, op, rows * features, rows * outputs, distance)
    weights = random_bytes(rng, outputs, features)
    return Op(OpCode.FULLY_CONNECTED, op, weights, scales(rng, outputs, features))


def add(rng: Any) -> Op:
    size_b, times = int(rng.integers(1, 60)), int(rng.choice([1, 1, 3]))
    a, b, y = rng.uniform(0.001, 1.0, 3)
    t = 2 * max(a, b)
    op = {"size": size_b * times, "size_b": size_b} | limits(rng)
    op["input_b_zero_point"] = int(rng.integers(-128, 128))
    for name, real in (("input", a / t), ("input_b", b / t), ("output", t / (2**20 * y))):
        op[f"{name}_multiplier"], op[f"{name}_shift"] = numerics.quantize_multiplier(float(real))
    place(rng, op, size_b * times, size_b * times, 0)
    if rng.random() < 0.5:
        return Op(OpCode.ADD, op | {"flags": OpFlag.CONSTANT_B}, constant=random_bytes(rng, size_b))
    return Op(OpCode.ADD, op | {"input_b": ARENA - size_b, "output": min(op["output"], ARENA - 300)})


def pool(rng: Any) -> Op:
    code = OpCode(rng.choice([OpCode.MAX_POOL_2D, OpCode.AVERAGE_POOL_2D]))
    channels = int(rng.choice([1, 3, 4, 16, 21, 40]))
    op = window(rng) | {"in_c": channels, "out_c": channels, "groups": 1}
    if code is OpCode.AVERAGE_POOL_2D:
        op |= {"dilation_h": 1, "dilation_w": 1, "flags": int(rng.choice([0, OpFlag.COUNT_INCLUDE_PAD]))}
    for axis, pad in (("h", "pad_top"), ("w", "pad_left")):  # the first and the last window reach the input
        reach = (op[f"kernel_{axis}"] - 1) * op[f"dilation_{axis}"]
        op[pad] = min(op[pad], reach)
        op[f"out_{axis}"] = min(op[f"out_{axis}"], (op[f"in_{axis}"] - 1 + op[pad]) // op[f"stride_{axis}"] + 1)
    size_in, size_out = (op[f"{s}_h"] * op[f"{s}_w"] * op[f"{s}_c"] for s in ("in", "out"))
    place(rng, op, size_in, size_out, reference.window_distance(op))
    return Op(code, op)


def rescale(rng: Any) -> Op:
    size = int(rng.integers(1, 70))
    op = {"size": size} | limits(rng)
    op["multiplier"], op["shift"] = numerics.quantize_multiplier(float(2.0 ** rng.uniform(-9, 4)))
    place(rng, op, size, size, 0)
    return Op(OpCode.RESCALE, op)


def random_bytes(rng: Any, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape).astype(np.int8)


def random_image(seed: int, count: int) -> bytes:
    """`count` ops that read and write places of one arena full of random bytes."""
    rng = np.random.default_rng(seed)
    makers = (conv, conv, conv, depthwise, depthwise, fully_connected, add, pool, rescale)
    ops = [makers[int(rng.integers(len(makers)))](rng) for _ in range(count)]
    builder = ImageBuilder(ARENA + SCRATCH, [Io(0, (ARENA,))], [Io(0, (ARENA,), name="y")], ops)
    builder.header = {"scratch_bytes": max(op.values.get("scratch_bytes", 0) for op in ops)}
    builder.golden = Golden((SEED,), golden_crc(read_image(builder.build()), (SEED,)))
    return builder.build()


@pytest.mark.parametrize("target", cortex_m.TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_kernels_give_the_simulators_bytes(target: cortex_m.Target, seed: int) -> None:
    """The firmware runs the golden record before anything else: every op's output is in its CRC."""
    image = read_image(random_image(seed, 160))
    assert {op.scratch_bytes > 0 for op in image.ops} == {True, False}
    x = random_bytes(np.random.default_rng(seed), 2, ARENA)
    result = cortex_m.run(image, x, target=target)
    np.testing.assert_array_equal(result.outputs["y"], simulator.run(image, x).outputs["y"])
    assert result.stack_bytes is not None
    assert result.stack_bytes <= 1024


GROUP = 4
"""More pixels than any kernel takes at a time: so much nearer, a later group reads what an earlier one wrote."""


def overlapping(code: OpCode, reversed_order: bool, nearer: int) -> bytes:
    """One 3x3 window over 6x6x8, its output at the smallest legal distance from its input less `nearer` pixels."""
    rng = np.random.default_rng(8)
    op = {f"{name}_{axis}": value for axis in "hw" for name, value in (("in", 6), ("out", 6), ("kernel", 3))}
    op |= {f"{name}_{axis}": 1 for axis in "hw" for name in ("stride", "dilation")}
    op |= {"pad_top": 1, "pad_left": 1, "in_c": 8, "out_c": 8, "groups": 8 if code is OpCode.DEPTHWISE_CONV_2D else 1}
    op |= limits(rng) | {"activation_min": -128, "activation_max": 127, "input": 2000}
    distance = (reference.reversed_window_distance if reversed_order else reference.window_distance)(op) - 8 * nearer
    op |= {"output": 2000 + (distance if reversed_order else -distance), "overlap_bytes": distance}
    op["flags"] = OpFlag.REVERSED if reversed_order else OpFlag.NONE
    weights = random_bytes(rng, 8, 3, 3, 8 // op["groups"])
    channels = scales(np.random.default_rng(3), 8, weights[0].size)
    builder = ImageBuilder(4000, [Io(0, (4000,))], [Io(0, (4000,), name="y")], [Op(code, op, weights, channels)])
    builder.golden = Golden((SEED,), golden_crc(read_image(builder.build()), (SEED,)))
    return builder.build()


@pytest.mark.parametrize("target", [cortex_m.TARGETS[1], cortex_m.TARGETS[-1]], ids=lambda target: target.name)
@pytest.mark.parametrize("code", [OpCode.CONV_2D, OpCode.DEPTHWISE_CONV_2D])
@pytest.mark.parametrize("reversed_order", [False, True])
def test_the_smallest_distance_is_enough_and_a_group_less_is_not(
    target: cortex_m.Target, code: OpCode, reversed_order: bool
) -> None:
    """The simulator computes whole tensors, so its golden record tells when a kernel reads what it has overwritten."""
    x = random_bytes(np.random.default_rng(1), 1, 4000)
    cortex_m.run(read_image(overlapping(code, reversed_order, 0)), x, target=target)
    with pytest.raises(InvalidInputError, match="golden"):
        cortex_m.run(read_image(overlapping(code, reversed_order, GROUP)), x, target=target)


def test_the_bench_sees_other_bytes() -> None:
    """A golden record that is one off is refused, so agreement above means something."""
    image = random_image(3, 5)
    data = bytearray(image)
    at = int(read_image(image).header["golden_offset"]) + layout.GOLDEN.size - 4
    data[at] ^= 1
    with pytest.raises(InvalidInputError, match="golden"):
        cortex_m.run(read_image(seal(bytes(data))), random_bytes(np.random.default_rng(0), 1, ARENA))
