"""The C source that `fleetctl compile --emit c` writes compiles under our warnings and gives the image's bytes."""

from pathlib import Path

import cffi
import numpy as np
import pytest

from agent import cbuild, red_zones
from agent.runtime import rig, small_model
from tinyfleet_compiler.emit.c_source import emit_c
from tinyfleet_compiler.image import read_image


@pytest.fixture
def library(tmp_path: Path) -> tuple[cffi.FFI, object]:
    for name, text in emit_c(read_image(small_model.build())).items():
        (tmp_path / name).write_text(text)
    sources = [tmp_path / "model.c", *cbuild.runtime_sources()]
    ffi = red_zones.make_ffi()
    ffi.cdef(cbuild.cdef(cbuild.INCLUDE / "fleet_runtime.h"))
    ffi.cdef(
        "fleet_status_t model_open(fleet_model_t *model);"
        "fleet_status_t model_run(const fleet_model_t *, const int8_t *, void *, const int8_t **);"
    )
    return ffi, red_zones.load(ffi, cbuild.shared_library("emitted", sources))


def test_emitted_c_runs_the_same_image(library: tuple[cffi.FFI, object]) -> None:
    ffi, lib = library
    handle, output = ffi.new("fleet_model_t *"), ffi.new("int8_t const **")
    assert lib.model_open(handle) == 0
    x = np.random.default_rng(5).integers(-128, 128, 72).astype(np.int8)
    arena = rig.buffer(416)
    assert lib.model_run(handle, ffi.from_buffer("int8_t[]", x), ffi.cast("void *", arena), output) == 0
    expected = rig.Model(small_model.build()).run(x)
    np.testing.assert_array_equal(np.frombuffer(ffi.buffer(output[0], 3), np.int8), expected)
