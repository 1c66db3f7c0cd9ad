"""model.c and model.h compile without warnings against the runtime and give the simulator's bytes."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from agent import cbuild
from tinyfleet_compiler import Image, compile_model, load_device_class, read_image, simulate
from tinyfleet_compiler.emit.c_source import emit_c
from unit.compiler.onnx_models import save_samples, small_cnn
from unit.compiler.streaming_models import compiled, streaming_cnn

FLAGS = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]

MAIN = """
#include <stdio.h>
#include "model.h"
#if defined(__GNUC__)
static uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));
#endif
int main(void) {
    int8_t input[MODEL_INPUT_0_BYTES];
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


def write_c(folder: Path, image: Image) -> None:
    for name, text in emit_c(image).items():
        (folder / name).write_text(text)


def build(folder: Path, main: str, compiler: str = "gcc") -> str:
    """The program of `main` and the emitted C in `folder`, with the runtime that gcc made once for all tests: other
    compilers' warnings about it are told by tests/agent/runtime.
    """
    (folder / "main.c").write_text(main)
    runtime = cbuild.plain_library("runtime", cbuild.runtime_sources())
    include = [f"-I{path}" for path in (cbuild.INCLUDE, cbuild.RUNTIME, folder)]
    files = [folder / "main.c", folder / "model.c", runtime]
    subprocess.run([compiler, *FLAGS, *include, *map(str, files), "-lm", "-o", str(folder / "run")], check=True)
    return str(folder / "run")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_emitted_c_gives_the_simulators_bytes(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    result = compile_model(
        small_cnn(tmp_path / "m.onnx"),
        load_device_class("host"),
        name="emit */ test",
        version="v1",
        calibration=save_samples(tmp_path / "c.npz", (2, 8, 6)),
    )
    write_c(tmp_path, read_image(result.image))
    program = build(tmp_path, MAIN, compiler)
    image = read_image(result.image)
    assert f"/* output 0, {image.outputs[0].name}: (4) int8" in (tmp_path / "model.h").read_text()
    codes = np.random.default_rng(0).integers(-128, 128, size=(5, 8, 6, 2)).astype(np.int8)
    done = subprocess.run([program], input=codes.tobytes(), capture_output=True, check=True)
    got = np.frombuffer(done.stdout, np.int8).reshape(5, 4)
    assert (got == simulate(image, codes)["y"]).all()


def test_a_model_with_state_takes_its_buffer_when_it_is_opened(tmp_path: Path) -> None:
    image = compiled(tmp_path, streaming_cnn(tmp_path / "m.onnx"))
    write_c(tmp_path, image)
    main = MAIN.replace("int main", "static uint8_t state[MODEL_STATE_BYTES] __attribute__((aligned(16)));\nint main")
    program = build(tmp_path, main.replace("model_open(&model)", "model_open(&model, state)"))
    codes = np.random.default_rng(0).integers(-128, 128, size=(9, 2, 8, 1)).astype(np.int8)
    done = subprocess.run([program], input=codes.tobytes(), capture_output=True, check=True)
    assert (np.frombuffer(done.stdout, np.int8).reshape(9, 3) == simulate(image, codes)["y"]).all()
