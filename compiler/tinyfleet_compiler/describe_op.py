"""What a record is, for people: its shape in one line, and its multiply-accumulates."""

from tinyfleet_compiler.image import ImageOp


def describe_op(op: ImageOp) -> str:
    """`CONV_2D 3x3 96x96x3 -> 48x48x8` or the like."""
    f = op.fields
    if "kernel_h" in f:
        shape = f"{f['in_h']}x{f['in_w']}x{f['in_c']} -> {f['out_h']}x{f['out_w']}x{f['out_c']}"
        return f"{op.code.name} {f['kernel_h']}x{f['kernel_w']} {shape}"
    if "in_features" in f:
        return f"{op.code.name} {f['rows']}x{f['in_features']} -> {f['rows']}x{f['out_features']}"
    if "frames" in f:
        return f"{op.code.name} {f['samples']} -> {f['frames']}x{f['coefficients']}"
    return op.code.name


def op_macs(op: ImageOp) -> int:
    """Multiply-accumulates of a record; 0 where it has no weights."""
    f = op.fields
    if "weights" not in f:
        return 0
    if "in_features" in f:
        return int(f["rows"] * f["in_features"] * f["out_features"])
    taps = f["kernel_h"] * f["kernel_w"] * (f["in_c"] // f["groups"])
    pixels = f["in_h"] * f["in_w"] if op.code.name.startswith("TRANSPOSE_CONV") else f["out_h"] * f["out_w"]
    return int(pixels * f["out_c"] * taps)
