"""What the runtime must refuse rather than read wrongly: misplaced memory, the other byte order, kernels left out."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from agent import cbuild, red_zones
from agent.runtime import rig, small_model
from agent.runtime.images import ImageBuilder, Io, Op
from tinyfleet_compiler import layout
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.operators import OPERATORS, OpCode
from tinyfleet_service.cli.standalone import write_standalone

HERE = Path(__file__).parent
QEMU_PORT = cbuild.DEVICE_AGENT / "ports" / "qemu"
M4 = ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
ALIGNMENT = "image or arena is not aligned to 16 bytes: align the buffer"
GROUPS = ("FLOAT32", "INT16", "INT4", "RECURRENT", "FRONT_END")
LAST_INT8 = 57
"""Op codes above belong to the groups."""
OF_GROUPS = ("svdf", "lstm", "gru", "state_read", "state_write", "features", "real_fft")
"""Files of groups whose names do not say so."""


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    text = [str(part) for part in command]
    return subprocess.run(text, cwd=folder, capture_output=True, text=True, check=False, env=cbuild.clean_env())


def write_misplaced(image: bytes, path: Path) -> None:
    """`misplaced_images`: the image 1, 2, 4 and 8 bytes behind a boundary of 16, a constant in flash."""
    rows = (bytes(shift) + image + bytes(16 - shift) for shift in (1, 2, 4, 8))
    lists = ",\n".join("{" + ",".join(map(str, row)) + "}" for row in rows)
    size = f"[4][{len(image) + 16}]"
    path.write_text(
        f"#include <stdint.h>\nextern const uint8_t misplaced_images{size};\n"
        f"const uint8_t misplaced_images{size} __attribute__((aligned(16))) = {{{lists}}};\n"
    )


def test_a_core_with_the_image_in_flash_refuses_what_is_misplaced(tmp_path: Path) -> None:
    """The emitted model on an emulated Cortex-M4: statuses, and no fault."""
    image = small_model.build()
    parsed = read_image(image)
    write_standalone({"model": parsed}, cbuild.DEVICE_AGENT, tmp_path, "flat", "dsp")
    write_misplaced(image, tmp_path / "misplaced.c")
    harness = [HERE / "refusals_main.c", *(QEMU_PORT / f"{name}.c" for name in ("startup", "semihosting", "counter"))]
    harness += [cbuild.RUNTIME / "status.c", cbuild.RUNTIME / "model_golden.c"]  # the emitted model needs neither
    linking = ["-nostartfiles", "--specs=nano.specs", f"-L{QEMU_PORT}", f"-T{QEMU_PORT / 'mps2_an386.ld'}"]
    include = ["-I.", f"-I{QEMU_PORT}", f"-I{cbuild.RUNTIME}", f"-I{cbuild.INCLUDE}"]
    sources = [*sorted(tmp_path.glob("*.c")), *harness]
    built = run(*M4, "-std=c99", "-O1", *include, *sources, *linking, "-o", "m.elf", folder=tmp_path)
    assert built.returncode == 0, built.stderr
    machine = ["-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "none"]
    said = run(
        *("qemu-system-arm", *machine, "-semihosting-config", "enable=on,target=native", "-kernel", "m.elf"),
        folder=tmp_path,
    )
    lines = [line.split(": ", 1) for line in (said.stdout + said.stderr).splitlines()]
    expected = [["image", "ok"], *[["image in flash", ALIGNMENT]] * 4]
    expected += [["big-endian image", "not a model image: the magic number is missing"]]
    expected += [[call, ALIGNMENT] for call in ("set input", "run", "invoke", "step", "golden")] * 4
    assert lines == [*expected, ["aligned arena", "ok"]]


def test_an_image_of_the_other_byte_order_is_refused() -> None:
    """Words, half words or the header alone turned round."""
    image = small_model.build()
    words = np.frombuffer(image, "<u4").byteswap().tobytes()
    halves = np.frombuffer(image, "<u2").byteswap().tobytes()
    header = np.frombuffer(image[:64], "<u4").byteswap().tobytes() + image[64:]
    assert [rig.Model(data).status for data in (words, halves, header)] == ["MAGIC"] * 3


@pytest.mark.parametrize("compiler", [M4, ("clang", "--target=armeb-none-eabi", "-mcpu=cortex-m4", "-ffreestanding")])
def test_a_big_endian_build_is_refused(tmp_path: Path, compiler: tuple[str, ...]) -> None:
    include = [f"-I{cbuild.INCLUDE}", f"-I{cbuild.RUNTIME}"]
    (tmp_path / "size.c").write_text('#include "internal.h"\n')
    little = "--target=arm-none-eabi" if compiler[0] == "clang" else "-mlittle-endian"
    right = run(*compiler, little, *include, "-fsyntax-only", "size.c", folder=tmp_path)
    assert right.returncode == 0, right.stderr
    done = run(*compiler, "-mbig-endian", *include, "-fsyntax-only", "size.c", folder=tmp_path)
    assert done.returncode != 0
    assert "the runtime needs a little-endian core" in done.stderr


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_left_out_leaves_no_warning(tmp_path: Path, group: str) -> None:
    """The files that know the groups, as host and as Cortex-M4 code."""
    options = [*cbuild.WARNINGS, "-std=c99", "-O1", f"-DFLEET_WITH_{group}=0", f"-I{cbuild.INCLUDE}"]
    files = [cbuild.RUNTIME / name for name in ("check_op.c", "kernel_table.c", "check_int16.c", "float/add.c")]
    for compiler in (("gcc",), ("clang",), M4):
        done = run(*compiler, *options, f"-I{cbuild.RUNTIME}", "-c", *files, folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


def tiny(code: OpCode) -> bytes:
    """An image of one op; a runtime that lacks the operator says so before it looks at the record's numbers."""
    fields = layout.RECORDS[OPERATORS[code].record].fields
    zeros = {field.name: 0 if field.count == 1 else (0,) * field.count for field in fields}
    op = Op(code, zeros | {"code": code, "record_bytes": Op(code, {}).record.size, "scratch": layout.NO_OFFSET})
    return ImageBuilder(64, [Io(0, (4,))], [Io(16, (4,), name="y")], [op]).build()


def test_models_of_groups_left_out_are_refused_and_others_run() -> None:
    flags = [f"-DFLEET_WITH_{group}=0" for group in GROUPS]
    files = cbuild.RUNTIME.glob("*.c")
    sources = [
        path for path in sorted(files) if path.stem not in OF_GROUPS and not path.stem.endswith(("_int16", "_int4"))
    ]
    ffi = red_zones.make_ffi()
    ffi.cdef(cbuild.cdef(cbuild.INCLUDE / "fleet_runtime.h"))
    lib = red_zones.load(ffi, cbuild.shared_library("int8", sources, include=[cbuild.RUNTIME], flags=flags))
    left_out = [code for code in OpCode if code.value > LAST_INT8]
    assert len(left_out) > 50
    handle = ffi.new("fleet_model_t *")
    for code in left_out:
        image = tiny(code)
        place = rig.buffer(len(image), image)
        status = lib.fleet_model_open(handle, ffi.cast("void *", place), len(image))
        assert (code.name, rig.NAMES[status]) == (code.name, "OPERATOR")
    image = small_model.build()
    place = rig.buffer(len(image), image)
    assert lib.fleet_model_open(handle, ffi.cast("void *", place), len(image)) == 0
    arena = rig.buffer(416)
    assert lib.fleet_model_golden(handle, ffi.cast("void *", arena), 416) == 0
