"""Whole models with joins, cuts, resizes and transposed convolutions: every op's output in C equals the simulator's."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from agent.runtime.test_runtime_compiled import check_every_op
from tinyfleet_compiler.compile import compile_model
from tinyfleet_compiler.device_class import load_device_class
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.operators import OpCode
from unit.compiler.onnx_models import node, save_model, save_samples

RNG = np.random.default_rng(2)


def weights(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def small_unet(path: Path) -> Path:
    """Down by a strided convolution, up three ways, joined with what was there before."""
    nodes = [
        node("Conv", ["x", "w1"], "a", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], "ar"),
        node("Conv", ["ar", "w2"], "d", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("ConvTranspose", ["d", "w3"], "u1", strides=[2, 2]),
        node("Resize", ["d", "", "s"], "u2", mode="linear"),
        node("Resize", ["d", "", "s"], "u3", mode="nearest", coordinate_transformation_mode="asymmetric"),
        node("DepthToSpace", ["d"], "u4", blocksize=2, mode="CRD"),
        node("Concat", ["ar", "u1", "u2", "u3", "u4"], "j", axis=1),
        helper.make_node("Split", ["j", "parts"], ["j1", "j2"], name="split", axis=1),
        node("Gather", ["j2", "i"], "g", axis=1),
        node("Concat", ["g", "j1"], "k", axis=1),
        node("Pad", ["k", "p", "v"], "q"),
        node("Conv", ["q", "w4"], "y"),
    ]
    constants = {
        "w1": weights(4, 3, 3, 3),
        "w2": weights(8, 4, 3, 3),
        "w3": weights(8, 5, 2, 2),
        "w4": weights(2, 25, 3, 3),
        "s": np.array([1, 1, 2, 2], np.float32),
        "parts": np.array([10, 17]),
        "i": np.array([4, 0, 1, 16, 3, 2, 9, 8, 10, 12, 11, 5, 7, 6, 14]),
        "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "v": np.float32(0.5),
    }
    return save_model(path, nodes, [1, 3, 8, 6], constants)


def sequence(path: Path) -> Path:
    nodes = [
        node("Conv", ["x", "w1"], "a", pads=[2, 0], dilations=[2]),
        node("Relu", ["a"], "ar"),
        node("MaxPool", ["ar"], "m", kernel_shape=[2], strides=[2]),
        node("Slice", ["m", "s", "e", "ax"], "c"),
        node("ConvTranspose", ["c", "w2"], "t", strides=[3]),
        node("Flatten", ["t"], "f"),
        node("Gemm", ["f", "w3"], transB=1),
    ]
    constants = {"w1": weights(6, 4, 2), "w2": weights(6, 3, 3), "w3": weights(5, 3 * 15)}
    cut = {"s": np.array([1]), "e": np.array([6]), "ax": np.array([2])}
    return save_model(path, nodes, [1, 4, 16], constants | cut)


@pytest.mark.parametrize("make", [small_unet, sequence], ids=lambda make: make.__name__)
def test_every_engine_gives_the_same_bytes(tmp_path: Path, make: object) -> None:
    path = make(tmp_path / "m.onnx")  # type: ignore[operator]
    shape = (3, 8, 6) if make is small_unet else (4, 16)
    calibration = save_samples(tmp_path / "c.npz", shape)
    result = compile_model(
        path, load_device_class("cortex-m4"), name="m", version="v1", calibration=calibration, evaluation=None
    )
    image = read_image(result.image)
    if make is small_unet:
        moved = {OpCode.PAD, OpCode.CONCAT, OpCode.STRIDED_COPY, OpCode.GATHER, OpCode.RESIZE_BILINEAR}
        assert moved | {OpCode.TRANSPOSE_CONV_2D} <= {op.code for op in image.ops}
        assert OpCode.TRANSPOSE not in {op.code for op in image.ops}
    check_every_op(image, samples=3, seed=21)
