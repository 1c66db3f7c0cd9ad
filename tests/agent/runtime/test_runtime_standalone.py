"""`fleetctl compile --emit c`: source that needs nothing else, in the layouts that build systems take."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.runtime.test_runtime_cmsis_nn import vendor_sources
from tinyfleet_compiler import read_image, simulate
from tinyfleet_compiler.device_class import device_class_text
from tinyfleet_service.cli.compile_model import compile_to_folder
from tinyfleet_service.cli.main import main
from tinyfleet_service.cli.standalone_layouts import LAYOUTS, LIBRARY
from tinyfleet_service.errors import InvalidInputError
from unit.compiler.onnx_models import save_samples, small_cnn
from unit.compiler.streaming_models import compiled, streaming_cnn

STRICT = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
ARM = {
    "cortex-m0plus": ["-mcpu=cortex-m0plus"],
    "cortex-m4": ["-mcpu=cortex-m4"],
    "cortex-m7": ["-mcpu=cortex-m7"],
    "cortex-m33": ["-mcpu=cortex-m33"],
    "cortex-m55": ["-mcpu=cortex-m55", "-mfloat-abi=hard"],
}
MAIN = """
#include <stdio.h>
#include "model.h"
static uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));
int main(void) {
    int8_t input[MODEL_INPUT_BYTES];
    const int8_t *output;
    fleet_model_t model;
    if (model_open(&model) != FLEET_OK) return 1;
    while (fread(input, 1, sizeof input, stdin) == sizeof input) {
        if (model_run(&model, input, arena, &output) != FLEET_OK) return 2;
        if (fwrite(output, 1, MODEL_OUTPUT_0_BYTES, stdout) != MODEL_OUTPUT_0_BYTES) return 3;
    }
    return 0;
}
"""


def emitted(folder: Path, device_class: str = "host", layout: str = "flat") -> Path:
    model, samples = small_cnn(folder / "m.onnx"), save_samples(folder / "x.npz", (2, 8, 6))
    out = folder / f"{Path(device_class).stem}-{layout}"
    compile_to_folder(
        model, device_class, out, samples, None, None, None, "c", layout=layout, name="small model", version="v1"
    )
    return out


def run(*command: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, **options)  # type: ignore[call-overload]


def c_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.c"))


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_one_folder_compiles_alone_and_gives_the_simulators_bytes(tmp_path: Path, compiler: str) -> None:
    out = emitted(tmp_path)
    (tmp_path / "main.c").write_text(MAIN)
    run(compiler, *STRICT, "-I", out, tmp_path / "main.c", *c_files(out), "-o", tmp_path / "program")
    check_program(tmp_path / "program", out)


def test_a_cpp_program_calls_the_emitted_model(tmp_path: Path) -> None:
    """As sketches and most frameworks for boards do: C++ around files that are compiled as C."""
    out = emitted(tmp_path)
    (tmp_path / "main.cpp").write_text(MAIN)
    strict = ["-x", "c++", "-std=c++11", *STRICT[1:]]
    run("clang", *strict, "-I", out, "-c", tmp_path / "main.cpp", "-o", tmp_path / "main.o")
    run("clang", *STRICT, "-I", out, *c_files(out), tmp_path / "main.o", "-o", tmp_path / "program")
    check_program(tmp_path / "program", out)


def check_program(program: Path, out: Path) -> None:
    """The program gives the simulator's bytes for the image in `out`."""
    image = read_image((out / "model.tfm").read_bytes())
    x = np.random.default_rng(3).integers(-128, 128, (16, *image.inputs[0].shape)).astype(np.int8)
    answer = run(program, input=x.tobytes()).stdout
    expected = simulate(image, x)[image.outputs[0].name]
    np.testing.assert_array_equal(np.frombuffer(answer, np.int8).reshape(expected.shape), expected)


@pytest.mark.parametrize("device_class", ARM)
def test_every_arm_class_compiles_without_a_warning(tmp_path: Path, device_class: str) -> None:
    out = emitted(tmp_path, device_class)
    flags = [*ARM[device_class], "-mthumb", *STRICT, "-I", out]
    run("arm-none-eabi-gcc", *flags, "-c", *c_files(out), cwd=tmp_path)
    clang = ["clang", "--target=arm-none-eabi", "-ffreestanding", "-mfloat-abi=soft", "-isystem", newlib_headers()]
    run(*clang, *flags, "-fsyntax-only", *c_files(out))  # its warnings come before it makes code
    listed = [line.split() for line in run("arm-none-eabi-nm", *tmp_path.glob("*.o")).stdout.decode().splitlines()]
    defined = {words[-1] for words in listed if len(words) == 3}
    assert not {words[1] for words in listed if words[:1] == ["U"] and words[1].startswith("fleet_")} - defined


def newlib_headers() -> str:
    """Where the C library of the ARM compiler keeps <string.h>."""
    listed = run("arm-none-eabi-gcc", "-E", "-v", "-x", "c", "/dev/null").stderr.decode()
    folders = [line.strip() for line in listed.splitlines() if line.startswith(" /")]
    return next(folder for folder in folders if (Path(folder) / "string.h").exists())


def test_only_what_the_model_calls_is_there(tmp_path: Path) -> None:
    names = {path.name for path in emitted(tmp_path).iterdir()}
    assert {"model.c", "model.h", "fleet_kernels.c", "model.tfm", "fleet_conv_2d.c", "fleet_internal.h"} <= names
    assert not names & {"fleet_resize_bilinear.c", "fleet_log_softmax.c", "fleet_kernel_table.c", "fleet_agent.h"}
    dsp = {path.name for path in emitted(tmp_path, "cortex-m4").iterdir()}
    assert {"fleet_dsp_conv_2d.c", "dsp.h"} <= dsp or {"fleet_dsp_conv_2d.c", "fleet_dsp.h"} <= dsp
    assert not any(name.startswith("fleet_dsp") for name in names)


def test_the_cmake_library_builds(tmp_path: Path) -> None:
    out = emitted(tmp_path, layout="cmake") / LIBRARY
    run("cmake", "-S", out, "-B", tmp_path / "b", f"-DCMAKE_C_FLAGS={' '.join(STRICT[1:])}")
    run("cmake", "--build", tmp_path / "b", "--target", LIBRARY, f"{LIBRARY}_example")
    assert (tmp_path / "b" / f"lib{LIBRARY}.a").exists()


@pytest.mark.parametrize("layout", ["arduino", "platformio", "zephyr"])
def test_other_layouts_hold_the_same_sources_and_a_manifest(tmp_path: Path, layout: str) -> None:
    flat, out = emitted(tmp_path, "cortex-m4"), emitted(tmp_path, "cortex-m4", layout) / LIBRARY
    for path in (out / "src").iterdir():
        assert path.read_bytes() == (flat / path.name).read_bytes()
    sketch = next(out.rglob("example.c"))
    sources = [*c_files(out / "src"), sketch]
    # Code is made of these very bytes in the tests above; here, every include is found.
    run("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", *STRICT, "-I", out / "src", "-fsyntax-only", *sources)
    if layout == "arduino":
        lines = dict(line.split("=", 1) for line in (out / "library.properties").read_text().splitlines())
        assert {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url"} <= lines.keys()
        assert list((out / "examples").glob("*/*.ino"))
    elif layout == "platformio":
        manifest = json.loads((out / "library.json").read_text())
        assert (manifest["name"], manifest["build"]["srcDir"]) == (LIBRARY, "src")
    else:
        module = yaml.safe_load((out / "zephyr" / "module.yml").read_text())
        assert module["build"] == {"cmake": ".", "kconfig": "Kconfig"}
        listed = (out / "CMakeLists.txt").read_text()
        assert all(f"src/{path.name}" in listed for path in c_files(out / "src"))


def with_cmsis_nn(folder: Path) -> Path:
    """A device class of its own for firmware with CMSIS-NN."""
    text = device_class_text("cortex-m4").replace('kernels = "dsp"', 'kernels = "cmsis-nn"')
    path = folder / "vendor.toml"
    path.write_text(text.replace('name = "cortex-m4"', 'name = "vendor-m4"'))
    return path


def test_a_class_with_cmsis_nn_gets_adapters_to_it_and_says_what_is_missing(tmp_path: Path) -> None:
    out = emitted(tmp_path, str(with_cmsis_nn(tmp_path)), "cmake") / LIBRARY
    table = (out / "src" / "fleet_kernels.c").read_text()
    assert "[FLEET_OP_CONV_2D] = fleet_cmsis_nn_conv_2d," in table
    assert "a library that is not here, CMSIS-NN" in table
    assert "target_link_libraries(fleet_model PUBLIC cmsis_nn)" in (out / "CMakeLists.txt").read_text()
    command = ["arm-none-eabi-gcc", *ARM["cortex-m4"], "-mthumb", *STRICT, "-c", "fleet_cmsis_nn_conv_2d.c"]
    done = subprocess.run(command, cwd=out / "src", capture_output=True, text=True, check=False)
    assert "CMSIS-NN 4.0.0 is missing" in done.stderr


@pytest.mark.slow
def test_the_adapters_need_cmsis_nn_alone(tmp_path: Path) -> None:
    """Every fleet_ name is defined, every other undefined one is CMSIS-NN's or the C library's."""
    vendor = Path(vendor_sources())
    out = emitted(tmp_path, str(with_cmsis_nn(tmp_path)), "cmake") / LIBRARY / "src"
    headers = [option for path in (vendor, vendor.parent / "cmsis_core") for option in ("-isystem", path / "Include")]
    objects = tmp_path / "objects"
    objects.mkdir()
    flags = [*ARM["cortex-m4"], "-mthumb", *STRICT, *headers]
    run("arm-none-eabi-gcc", *flags, "-c", *c_files(out), cwd=objects)
    listed = [line.split() for line in run("arm-none-eabi-nm", *objects.glob("*.o")).stdout.decode().splitlines()]
    defined = {words[-1] for words in listed if len(words) == 3}
    missing = {words[1] for words in listed if words[:1] == ["U"]} - defined
    assert {"arm_convolve_wrapper_s8", "arm_fully_connected_s8"} <= missing
    assert not {name for name in missing if name.startswith("fleet_")}


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="makefile") as caught:
        emitted(tmp_path, layout="makefile")
    assert all(name in caught.value.next for name in LAYOUTS)


def test_c_tools_are_there() -> None:
    """These tests skip nothing: the set-up installs the compilers."""
    assert all(shutil.which(tool) for tool in ("gcc", "clang", "arm-none-eabi-gcc", "cmake"))


REAL_MAIN = MAIN.replace("int8_t input[MODEL_INPUT_BYTES]", "model_input_t input[MODEL_INPUT_BYTES / sizeof(float)]")
REAL_MAIN = REAL_MAIN.replace("const int8_t *output", "const model_output_t *output")


def test_a_float32_model_stands_alone_too(tmp_path: Path) -> None:
    model, out = small_cnn(tmp_path / "m.onnx"), tmp_path / "real"
    names = {"name": "small model", "version": "v1"}
    compile_to_folder(model, "host", out, None, None, None, None, "c", **names, element="float32")
    (tmp_path / "main.c").write_text(REAL_MAIN)
    run("gcc", *STRICT, "-ffp-contract=off", "-I", out, tmp_path / "main.c", *c_files(out), "-o", tmp_path / "program")
    image = read_image((out / "model.tfm").read_bytes())
    x = np.random.default_rng(3).normal(size=(5, *image.inputs[0].shape)).astype(np.float32)
    answer = run(tmp_path / "program", input=x.tobytes()).stdout
    expected = simulate(image, x)[image.outputs[0].name]
    np.testing.assert_array_equal(np.frombuffer(answer, np.uint32).reshape(expected.shape), expected.view(np.uint32))
    assert "typedef float model_input_t;" in (out / "model.h").read_text()


BOTH_MAIN = """
#include <stdio.h>
#include "model_digits_2.h"
#include "model_stream.h"
static uint8_t arena[MODEL_DIGITS_2_ARENA_BYTES > MODEL_STREAM_ARENA_BYTES ? MODEL_DIGITS_2_ARENA_BYTES
                                                                           : MODEL_STREAM_ARENA_BYTES]
    __attribute__((aligned(16)));
static uint8_t state[MODEL_STREAM_STATE_BYTES] __attribute__((aligned(16)));
int main(void) {
    model_digits_2_input_t digits[MODEL_DIGITS_2_INPUT_BYTES];
    model_stream_input_t sound[MODEL_STREAM_INPUT_BYTES];
    const int8_t *output;
    fleet_model_t one, two;
    if (model_digits_2_open(&one) != FLEET_OK || model_stream_open(&two, state) != FLEET_OK) return 1;
    while (fread(digits, 1, sizeof digits, stdin) == sizeof digits && fread(sound, 1, sizeof sound, stdin)) {
        if (model_digits_2_run(&one, digits, arena, &output) != FLEET_OK) return 2;
        if (fwrite(output, 1, MODEL_DIGITS_2_OUTPUT_0_BYTES, stdout) != MODEL_DIGITS_2_OUTPUT_0_BYTES) return 3;
        if (model_stream_run(&two, sound, arena, &output) != FLEET_OK) return 4;
        if (fwrite(output, 1, MODEL_STREAM_OUTPUT_0_BYTES, stdout) != MODEL_STREAM_OUTPUT_0_BYTES) return 5;
    }
    return 0;
}
"""


def named_image(folder: Path, name: str, device_class: str = "host") -> Path:
    """An image of the small network under a name."""
    model, samples = small_cnn(folder / "m.onnx"), save_samples(folder / "x.npz", (2, 8, 6))
    out = folder / f"{name}-{device_class}"
    compile_to_folder(model, device_class, out, samples, None, None, None, None, name=name, version="v1")
    return out / "model.tfm"


def emit(*arguments: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["emit", *map(str, arguments)])
    assert caught.value.code == 0


def streaming_image(folder: Path) -> Path:
    folder.mkdir()
    compiled(folder, streaming_cnn(folder / "s.onnx"), name="Stream")
    return folder / "model.tfm"


def test_one_program_runs_several_models_in_one_arena(tmp_path: Path) -> None:
    paths, out = [named_image(tmp_path, "digits 2"), streaming_image(tmp_path / "s")], tmp_path / "both"
    emit(*paths, "--out", out)
    (tmp_path / "main.c").write_text(BOTH_MAIN)
    run("gcc", *STRICT, "-I", out, tmp_path / "main.c", *c_files(out), "-o", tmp_path / "program")
    digits, stream = (read_image(path.read_bytes()) for path in paths)
    random = np.random.default_rng(4)
    x, y = (random.integers(-128, 128, (9, *image.inputs[0].shape)).astype(np.int8) for image in (digits, stream))
    codes = b"".join(one.tobytes() + two.tobytes() for one, two in zip(x, y, strict=True))
    answer = np.frombuffer(run(tmp_path / "program", input=codes).stdout, np.int8).reshape(9, -1)
    expected = [simulate(image, codes)[image.outputs[0].name] for image, codes in ((digits, x), (stream, y))]
    np.testing.assert_array_equal(answer, np.concatenate(expected, axis=1))


@pytest.mark.parametrize("layout", ["cmake", "arduino", "platformio", "zephyr"])
def test_the_example_of_a_layout_opens_a_model_with_state(tmp_path: Path, layout: str) -> None:
    paths = [streaming_image(tmp_path / "s"), named_image(tmp_path, "digits")]
    emit(*paths, "--out", tmp_path / "both", "--layout", layout)
    out = tmp_path / "both" / LIBRARY
    program = "#include <stdio.h>\nint fleet_example_run(void);\nint main(void) { return fleet_example_run() < 0; }\n"
    (tmp_path / "main.c").write_text(program)
    sources = [tmp_path / "main.c", next(out.rglob("example.c")), *c_files(out / "src")]
    run("gcc", *STRICT, "-I", out / "src", *sources, "-o", tmp_path / "program")
    run(tmp_path / "program")
    manifest = {"arduino": "library.properties", "platformio": "library.json"}.get(layout, "CMakeLists.txt")
    listed = (out / manifest).read_text()
    assert all(name in listed for name in ("model_stream", "model_digits"))


def test_images_that_cannot_be_one_program_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host, again = named_image(tmp_path, "net"), named_image(tmp_path, "NET")
    board, broken = named_image(tmp_path, "other", "cortex-m4"), tmp_path / "broken.tfm"
    broken.write_bytes(host.read_bytes()[:-1])
    refused = {
        (host, again): "two images would be model_net in C",
        (host, board): "for the device classes cortex-m4, host",
        (host, broken): "broken.tfm: ",
        (host, "--device-class", "cortex-m4"): "for device class host, not cortex-m4",
        (host, "--layout", "makefile"): "--layout makefile is unknown",
    }
    for arguments, reason in refused.items():
        with pytest.raises(SystemExit) as caught:
            main(["emit", *map(str, arguments), "--out", str(tmp_path / "none")])
        assert caught.value.code == 1
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
