"""Every engine gives the same bytes; what is missing or wrong is said with what to do next."""

import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.runtime import small_model
from tinyfleet_compiler import CompileOptions, compile_model, load_device_class
from tinyfleet_compiler.image import read_image
from tinyfleet_ota.delta import apply_delta, make_delta
from tinyfleet_service.cli.engines import cortex_m, host, programs, run_image
from tinyfleet_service.cli.engines.delta import delta_apply
from tinyfleet_service.cli.main import main
from tinyfleet_service.errors import InvalidInputError, StartError, UnavailableError
from unit.compiler import recurrent_models
from unit.compiler.onnx_models import small_cnn
from unit.compiler.streaming_models import compiled, stream, streaming_cnn

IMAGE = small_model.build()
IMAGE_INPUT_BYTES = math.prod(small_model.INPUT)
X = np.random.default_rng(0).normal(0, 2, (7, *small_model.INPUT)).astype(np.float32)
QEMU_MISSING = [tool for tool in cortex_m.TOOLS if shutil.which(tool) is None]
needs_qemu = pytest.mark.skipif(bool(QEMU_MISSING), reason=f"not installed: {QEMU_MISSING}")


def outputs(engine: str, x: np.ndarray = X) -> np.ndarray:
    return run_image(IMAGE, x, engine).outputs["probabilities"]


def test_host_and_simulator_agree() -> None:
    on_host = outputs("host")
    assert on_host.shape == (7, 3)
    assert on_host.dtype == np.int8
    assert len(np.unique(on_host, axis=0)) > 1
    np.testing.assert_array_equal(on_host, outputs("simulator"))


@needs_qemu
def test_cortex_m4_agrees_and_measures() -> None:
    result = run_image(IMAGE, X, "cortex-m4")
    np.testing.assert_array_equal(result.outputs["probabilities"], outputs("simulator"))
    again = run_image(IMAGE, X[:1], "cortex-m4")
    assert result.instructions == pytest.approx(again.instructions, abs=80)  # two ticks of the counter
    assert 20_000 < (result.instructions or 0) < 1_000_000
    assert 0 < (result.stack_bytes or 0) <= 1024
    assert 4_000 < (result.runtime_flash_bytes or 0) <= 88 * 1024  # every operator of every group is linked
    assert (result.arena_bytes, result.state_bytes) == (416, 0)


@needs_qemu
def test_a_stream_gives_the_same_bytes_on_every_engine(tmp_path: Path) -> None:
    """Twenty inferences in a row of a model that keeps a ring buffer and a running average."""
    image = compiled(tmp_path, streaming_cnn(tmp_path / "m.onnx"), "cortex-m4").data
    x = stream(20, 3)
    for reset in (False, True):
        results = [run_image(image, x, engine, reset_state=reset) for engine in ("simulator", "host", "cortex-m4")]
        first = results[0].outputs["y"]
        assert len(np.unique(first, axis=0)) > 10
        for result in results:
            assert (result.outputs["y"] == first).all()
            assert result.state_bytes == 56


@pytest.mark.slow
@needs_qemu
@pytest.mark.parametrize("kind", ["int8", "float32"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_recurrent_layers_give_the_same_bytes_on_an_emulated_core(tmp_path: Path, operator: str, kind: str) -> None:
    x = recurrent_models.given(operator, 6, steps=1)["x"]
    np.savez(tmp_path / "c.npz", x=x)
    pairs = (("h_next", "h"), ("c_next", "c"))[: 2 if operator == "LSTM" else 1]
    source = recurrent_models.starting(tmp_path / "m.onnx", operator, steps=1)
    options = CompileOptions(states=pairs, type=kind)
    calibration = tmp_path / "c.npz" if kind == "int8" else None
    device = load_device_class("cortex-m4")
    image = compile_model(source, device, name="m", version="v1", calibration=calibration, options=options).image
    results = [run_image(image, x, engine) for engine in ("simulator", "cortex-m4")]
    np.testing.assert_array_equal(results[0].outputs["y"], results[1].outputs["y"])
    assert len(np.unique(results[0].outputs["y"])) > 4


@pytest.mark.slow
@needs_qemu
@pytest.mark.parametrize("kind", ["int8", "float32"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_layers_both_ways_give_the_same_bytes_on_an_emulated_core(tmp_path: Path, operator: str, kind: str) -> None:
    x = recurrent_models.given(operator, 6)["x"]
    np.savez(tmp_path / "c.npz", x=x)
    source = recurrent_models.torch_both_ways(tmp_path / "m.onnx", operator)
    calibration = tmp_path / "c.npz" if kind == "int8" else None
    device = load_device_class("cortex-m4")
    options = CompileOptions(type=kind)
    image = compile_model(source, device, name="m", version="v1", calibration=calibration, options=options).image
    results = [run_image(image, x, engine) for engine in ("simulator", "host", "cortex-m4")]
    for name, codes in results[0].outputs.items():
        for other in results[1:]:
            np.testing.assert_array_equal(codes, other.outputs[name])


@pytest.mark.slow
@needs_qemu
def test_svdf_gives_the_same_bytes_on_an_emulated_core(tmp_path: Path) -> None:
    data, x = pytest.importorskip("unit.compiler.test_tflite_svdf").svdf(1, True)
    (tmp_path / "m.tflite").write_bytes(data)
    device = load_device_class("cortex-m4")
    image = compile_model(tmp_path / "m.tflite", device, name="m", version="v1", calibration=None).image
    results = [run_image(image, x, engine) for engine in ("simulator", "cortex-m4")]
    for name, codes in results[0].outputs.items():
        np.testing.assert_array_equal(codes, results[1].outputs[name])


def test_the_host_measures_what_it_can() -> None:
    result = run_image(IMAGE, X, "host")
    assert (result.arena_bytes, result.instructions, result.stack_bytes) == (416, None, None)


def test_no_samples_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="no samples"):
        outputs("host", X[:0])


def test_int8_input_is_taken_as_it_is() -> None:
    codes = np.random.default_rng(1).integers(-128, 128, (2, *small_model.INPUT)).astype(np.int8)
    np.testing.assert_array_equal(outputs("host", codes), outputs("simulator", codes))


def test_input_by_name() -> None:
    for key in ("image", "x_image", "x"):
        np.testing.assert_array_equal(run_image(IMAGE, {key: X}, "simulator").outputs["probabilities"], outputs("host"))
    with pytest.raises(InvalidInputError, match="x_image"):
        run_image(IMAGE, {"other": X}, "host")


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (X[:, :5], r"\(N, 6, 6, 2\)"),
        (np.float32(1.0), r"\(N, 6, 6, 2\)"),
        (X.astype(np.int64), "int8, or float32"),
        (X.astype(complex), "int8, or float32"),
    ],
)
def test_wrong_input_is_refused(x: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        run_image(IMAGE, x, "host")


def test_damaged_image_is_refused() -> None:
    for data in (b"", b"\0" * 200, IMAGE[:-16], IMAGE[:300] + bytes([IMAGE[300] ^ 1]) + IMAGE[301:]):
        with pytest.raises(InvalidInputError, match="compile or fetch it again"):
            run_image(data, X, "host")


@needs_qemu
def test_armv6_m_runs_the_image_from_flash() -> None:
    result = run_image(IMAGE, X, "cortex-m0plus")
    np.testing.assert_array_equal(result.outputs["probabilities"], outputs("simulator"))
    assert 50_000 < (result.instructions or 0) < 2_000_000


@needs_qemu
def test_firmware_of_few_operators_refuses_images_with_others() -> None:
    few = replace(cortex_m.TARGETS[1], operators=("SOFTMAX", "CONV_2D"))
    with pytest.raises(InvalidInputError, match="operator"):
        cortex_m.run(read_image(IMAGE), np.zeros((1, IMAGE_INPUT_BYTES), np.int8), target=few)
    with pytest.raises(StartError, match="names 'CONV_3D'"):
        cortex_m.build_firmware(replace(few, operators=("SOFTMAX", "CONV_3D")))


def test_unknown_engine() -> None:
    with pytest.raises(InvalidInputError, match="no engine is called") as raised:
        run_image(IMAGE, X, "toaster")
    assert "simulator, host, cortex-m0plus, cortex-m4" in raised.value.next


def test_missing_tools_name_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(UnavailableError, match=r"apt-get install .*qemu-system-arm") as raised:
        run_image(IMAGE, X, "cortex-m4")
    assert "libnewlib-arm-none-eabi" in raised.value.next


def test_the_runner_refuses_what_the_library_refuses(tmp_path: Path) -> None:
    """Straight at the program: the engine's own checks are out of the way."""
    runner = programs.build("fleet_runner", "fleet_runner", options=host.OPTIONS)
    (tmp_path / "image").write_bytes(IMAGE[:-40] + bytes([IMAGE[-40] ^ 1]) + IMAGE[-39:])  # in the biases
    (tmp_path / "good").write_bytes(IMAGE)
    (tmp_path / "x").write_bytes(bytes(71))
    for name, says in (("image", "CRC"), ("none", "No such file"), ("good", "no multiple")):
        command = [str(runner), name, "x", "y"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert says in done.stderr


def test_status_texts_come_from_the_header() -> None:
    assert "CRC" in programs.status_text(-12)
    assert programs.status_text(-9999) == "status -9999"


def test_delta_apply_runs_the_c_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are built on first use: from no cache at all here, by whatever test comes first elsewhere."""
    monkeypatch.setenv("TINYFLEET_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(3)
    old = rng.integers(0, 256, 20_000).astype(np.uint8).tobytes()
    new = bytearray(old)
    for at in rng.integers(0, len(new), 500):
        new[at] = (new[at] + 1) % 256
    patch = make_delta(old, bytes(new))
    assert delta_apply(old, patch) == bytes(new) == apply_delta(old, patch)
    assert delta_apply(b"", make_delta(b"", bytes(new))) == bytes(new)


def test_checkouts_and_a_build_that_was_killed_share_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYFLEET_CACHE", str(tmp_path / "cache"))
    here, elsewhere = programs.source_folder(), tmp_path / "device_agent"
    shutil.copytree(here, elsewhere)
    objects = programs.objects_folder(".", host.OPTIONS)
    for checkout in (here, elsewhere, here):
        monkeypatch.setattr(programs, "source_folder", lambda checkout=checkout: checkout)
        program = programs.build("fleet_delta_apply", "fleet_delta_apply", options=host.OPTIONS)
        program.unlink()
    next(objects.rglob("crc32.c.o")).write_bytes(b"half")
    (objects / "finished").unlink()
    assert programs.build("fleet_delta_apply", "fleet_delta_apply", options=host.OPTIONS) == program


def test_delta_apply_refuses_another_base_and_damage() -> None:
    old, new = bytes(range(256)) * 20, bytes(reversed(range(256))) * 20
    patch = make_delta(old, new)
    with pytest.raises(InvalidInputError, match="was refused"):
        delta_apply(new, patch)
    for damaged in (b"", patch[:-1], b"\0" + patch[1:]):
        with pytest.raises(InvalidInputError, match="make it again"):
            delta_apply(old, damaged)


def fleetctl(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


@needs_qemu
def test_profiles_by_operator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.tfm").write_bytes(IMAGE)
    np.savez(tmp_path / "x.npz", x=X[:1])
    files = ("--input", tmp_path / "x.npz", "--out", tmp_path / "y.npz", "--profile", tmp_path / "p.json")
    assert fleetctl("run", tmp_path / "m.tfm", *files, "--on", "cortex-m4", "--json") == 0
    said = capsys.readouterr()
    document, written = json.loads(said.out), json.loads((tmp_path / "p.json").read_text())
    assert document["layers"] == written["layers"]
    assert sum(row["instructions"] for row in written["layers"]) == written["instructions"]
    assert abs(written["instructions"] - document["instructions"]) < 0.05 * document["instructions"]
    assert sum(row["share"] for row in written["layers"]) == pytest.approx(1, abs=0.01)
    assert next(row["operator"] for row in written["layers"] if row["macs"]) in said.err
    assert fleetctl("run", tmp_path / "m.tfm", *files, "--on", "host") != 0
    assert "--on cortex-m4" in capsys.readouterr().err


@needs_qemu
def test_a_compile_can_put_a_profile_into_its_report(tmp_path: Path) -> None:
    digits = Path(__file__).resolve().parents[2] / "examples" / "digits"
    words = ("--calibration", digits / "calibration.npz", "--profile-on", "cortex-m4", "--out", tmp_path)
    assert fleetctl("compile", digits / "digits_v1.onnx", "--device-class", "cortex-m4", *words) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["name"] for row in report["profile"]["layers"]] == [row["name"] for row in report["layers"]]
    assert f"{report['profile']['instructions']:,} instructions" in (tmp_path / "report.html").read_text()


# ---- float32 images


@pytest.fixture(scope="module")
def real_image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("float")
    options = CompileOptions(type="float32")
    m4 = load_device_class("cortex-m4")
    path = small_cnn(folder / "m.onnx")
    return compile_model(path, m4, name="m", version="1", calibration=None, options=options).image


REAL_X = np.random.default_rng(5).normal(0, 2, (6, 2, 8, 6)).astype(np.float32)


def real_outputs(image: bytes, engine: str) -> np.ndarray:
    return run_image(image, REAL_X, engine).outputs["y"]


def test_float32_on_host_and_simulator(real_image: bytes) -> None:
    outputs = real_outputs(real_image, "host")
    assert (outputs.dtype, outputs.shape) == (np.float32, (6, 4))
    np.testing.assert_allclose(outputs.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(outputs.view(np.uint32), real_outputs(real_image, "simulator").view(np.uint32))
    with pytest.raises(InvalidInputError, match="is int64") as caught:
        run_image(real_image, REAL_X.astype(np.int64), "host")
    assert caught.value.next == "give float32"


@needs_qemu
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"])
def test_float32_on_every_core_with_an_fpu(real_image: bytes, core: str) -> None:
    """Bit for bit, and so are the golden vectors that the firmware replays first."""
    expected = real_outputs(real_image, "simulator").view(np.uint32)
    np.testing.assert_array_equal(real_outputs(real_image, core).view(np.uint32), expected)
