"""Small good TFLite files for `import_fuzz`."""

import numpy as np

from unit.compiler.tflite_models import Builder


def layers() -> bytes:
    """A convolution, a pool, a resize, a reshape and a layer."""
    built, rng = Builder(), np.random.default_rng(1)
    x = built.tensor((1, 6, 5, 2), 0.1, 3)
    w = built.tensor(
        (3, 3, 3, 2), [0.01, 0.02, 0.03], [0, 0, 0], data=rng.integers(-9, 9, (3, 3, 3, 2)).astype(np.int8)
    )
    b = built.tensor((3,), [0.001, 0.002, 0.003], [0, 0, 0], data=np.arange(3, dtype=np.int32))
    c, p = built.tensor((1, 6, 5, 3), 0.2, -4), built.tensor((1, 3, 2, 3), 0.2, -4)
    window = {"padding": 0, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    built.operator("CONV_2D", [x, w, b], c, 3, kind="Conv2DOptions", **window)
    pool = {"padding": 1, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    built.operator("MAX_POOL_2D", [c], p, 2, kind="Pool2DOptions", **pool)
    r = built.tensor((1, 4, 4, 3), 0.2, -4)
    size = built.tensor((2,), data=np.array([4, 4], np.int32))
    built.operator("RESIZE_BILINEAR", [p, size], r, 3, kind="ResizeBilinearOptions")
    f, v = built.tensor((1, 48), 0.2, -4), built.tensor((5, 48), 0.01, 0, data=np.ones((5, 48), np.int8))
    built.operator("RESHAPE", [r], f, 1)
    y = built.tensor((1, 5), 0.3, 0)
    built.operator("FULLY_CONNECTED", [f, v, -1], y, 4, kind="FullyConnectedOptions")
    return built.data([x], [y])


def moves() -> bytes:
    """A product of activations, a padding, a slice, a concatenation and a softmax."""
    built = Builder()
    x, z = built.tensor((1, 3, 4), 0.1, 0), built.tensor((1, 3, 3), 0.1, 0)
    built.operator("BATCH_MATMUL", [x, x], z, 2, kind="BatchMatMulOptions", adjY=True)
    pads = built.tensor((3, 2), data=np.array([[0, 0], [1, 1], [0, 2]], np.int32))
    p = built.tensor((1, 5, 5), 0.1, 0)
    built.operator("PAD", [z, pads], p, 2, kind="PadOptions")
    fours = [built.tensor((3,), data=np.array(v, np.int32)) for v in ([0, 1, 0], [1, 4, 5], [1, 2, 1])]
    s = built.tensor((1, 2, 5), 0.1, 0)
    built.operator("STRIDED_SLICE", [p, *fours], s, 2, kind="StridedSliceOptions")
    c, y = built.tensor((1, 4, 5), 0.1, 0), built.tensor((1, 4, 5), 1 / 256, -128)
    built.operator("CONCATENATION", [s, s], c, 2, kind="ConcatenationOptions", axis=1)
    built.operator("SOFTMAX", [c], y, 2, kind="SoftmaxOptions", beta=1.0)
    return built.data([x], [y])


def both_ways() -> bytes:
    """A recurrent layer both ways over real numbers."""
    built, rng = Builder(), np.random.default_rng(1)
    x, y = built.tensor((1, 4, 3), kind="f4"), built.tensor((1, 4, 4), kind="f4")
    inputs = [x]
    for _ in range(2):
        for shape in [(2, 3)] * 4 + [(2, 2)] * 4:
            inputs.append(built.tensor(shape, data=rng.normal(size=shape).astype(np.float32)))
        inputs += [-1] * 3 + [built.tensor((2,), data=np.ones(2, np.float32)) for _ in range(4)] + [-1] * 2
    for _ in range(4):
        inputs.append(built.tensor((1, 2), kind="f4"))
        built.graph.tensors[inputs[-1]].isVariable = True
    options = {"kind": "BidirectionalSequenceLSTMOptions", "fusedActivationFunction": 4, "mergeOutputs": True}
    options["timeMajor"] = False
    built.operator("BIDIRECTIONAL_SEQUENCE_LSTM", [*inputs, *[-1] * 9], y, 1, **options)
    return built.data([x], [y])


def tflite_bases() -> list[bytes]:
    """The files."""
    return [layers(), moves(), both_ways()]
