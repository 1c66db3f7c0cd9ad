"""check, compile, run, delta and inspect on good files and on bad ones. `run` uses the simulator: it builds nothing."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tinyfleet_compiler import read_image
from tinyfleet_service.cli.main import main
from unit.compiler.onnx_models import node, save_model, save_samples, small_cnn

SHAPE = (2, 8, 6)


class Typed:
    """What one `fleetctl` left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def fleetctl(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Typed:
        code = 0
        try:
            main([str(word) for word in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Typed(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its data, and its image in two trainings."""
    folder = tmp_path_factory.mktemp("files")
    save_samples(folder / "data.npz", SHAPE, y=np.arange(32) % 4)
    for seed in (0, 1):
        small_cnn(folder / f"net{seed}.onnx", seed=seed)
        with pytest.raises(SystemExit) as end:
            main(
                ["compile", str(folder / f"net{seed}.onnx"), "--device-class", "cortex-m4", "--calibration",
                 str(folder / "data.npz"), "--out", str(folder / f"out{seed}"), "-o", "name"]
            )  # fmt: skip
        assert not end.value.code
    return folder


@pytest.fixture
def image(work: Path) -> Path:
    return work / "out0" / "model.tfm"


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of a + b, inputs `a` and `x`, each (N, 4)."""
    folder = tmp_path_factory.mktemp("two")
    model = save_model(folder / "add.onnx", [node("Add", ["a", "x"])], (), inputs={"a": (1, 4), "x": (1, 4)})
    rng = np.random.default_rng(0)
    samples = {f"x_{name}": rng.uniform(-1, 1, (16, 4)).astype(np.float32) for name in ("a", "x")}
    np.savez(folder / "data.npz", **samples)
    with pytest.raises(SystemExit) as end:
        main(
            ["compile", str(model), "--device-class", "host", "--calibration", str(folder / "data.npz"), "--out",
             str(folder), "-o", "name"]
        )  # fmt: skip
    assert not end.value.code
    return folder


# ---- check and compile


def test_check_says_fit_or_every_problem(fleetctl: Any, work: Path, tmp_path: Path) -> None:
    assert fleetctl("check", work / "net0.onnx", "--device-class", "cortex-m4").out == "net0.onnx fits cortex-m4\n"
    nodes = [node("Det", ["x"], "e"), node("NonZero", ["e"])]
    bad = save_model(tmp_path / "bad.onnx", nodes, (1, 4))
    typed = fleetctl("check", bad, "--device-class", "cortex-m4")
    assert typed.code == 1
    assert "Det" in typed.out
    assert "NonZero" in typed.out
    typed = fleetctl("check", bad, "--device-class", "cortex-m4", "--json")
    assert typed.code == 1
    assert typed.document["fits"] is False
    assert len(typed.document["problems"]) == 2


def test_compile_prints_its_report_and_a_document(fleetctl: Any, work: Path, tmp_path: Path) -> None:
    data = work / "data.npz"
    arguments = ["compile", work / "net0.onnx", "--device-class", "cortex-m4", "--calibration", data, "--out", tmp_path]
    typed = fleetctl(*arguments, "--evaluate", data)
    assert typed.code == 0
    assert "flash yes, arena yes, shadow yes" in typed.out
    assert "top1 float / quantised" in typed.out
    assert "not measured: give --evaluate" in fleetctl(*arguments).out
    assert fleetctl(*arguments, "--json").document == json.loads((tmp_path / "report.json").read_text())
    assert yaml.safe_load(fleetctl(*arguments, "-o", "yaml").out)["device_class"] == "cortex-m4"
    assert fleetctl(*arguments, "-o", "name").out == f"{tmp_path}/model.tfm\n"


def test_a_misfit_is_compiled_and_ends_with_1(fleetctl: Any, work: Path, tmp_path: Path) -> None:
    toml = Path(__file__).parents[3] / "compiler" / "tinyfleet_compiler"
    shipped = next(toml.rglob("cortex-m4.toml")).read_text()
    small = tmp_path / "small.toml"
    small.write_text(shipped.replace("arena_bytes = 131072", "arena_bytes = 64").replace('"cortex-m4"', '"small"', 1))
    typed = fleetctl(
        "compile", work / "net0.onnx", "--device-class", small, "--calibration", work / "data.npz", "--out", tmp_path
    )
    assert typed.code == 1
    assert "arena NO" in typed.out
    assert "the arena needs" in typed.out


# ---- run


def test_run_gives_what_the_compiler_simulates(fleetctl: Any, work: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "y"  # written as named, without .npz
    typed = fleetctl("run", image, "--input", work / "data.npz", "--out", out, "--on", "simulator", "--json")
    assert typed.code == 0
    assert typed.document["arena_bytes"] == read_image(image.read_bytes()).arena_bytes
    assert typed.document["instructions"] is None
    with np.load(out) as arrays:
        name = read_image(image.read_bytes()).outputs[0].name
        assert set(arrays.files) == {"y", f"y_{name}"}
        assert arrays["y"].shape == (32, 4)
        assert arrays["y"].dtype == np.int8


def test_run_takes_several_inputs_by_name(fleetctl: Any, two_inputs: Path, tmp_path: Path) -> None:
    a, x = (np.full((2, 4), value, np.float32) for value in (0.5, -0.25))
    np.savez(tmp_path / "in.npz", x_a=a, x_x=x, x=np.ones(7), other=np.ones(3))
    typed = fleetctl(
        "run",
        two_inputs / "model.tfm",
        "--input",
        tmp_path / "in.npz",
        "--out",
        tmp_path / "y.npz",
        "--on",
        "simulator",
    )
    assert (typed.code, typed.err) == (0, "")
    tensor = read_image((two_inputs / "model.tfm").read_bytes()).outputs[0]
    with np.load(tmp_path / "y.npz") as arrays:
        real = (arrays["y"].astype(float) - tensor.zero_point) * tensor.scale
    assert np.abs(real - 0.25).max() <= 2 * tensor.scale


def test_run_names_the_input_that_is_missing(fleetctl: Any, two_inputs: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x_a=np.ones((2, 4), np.float32))
    typed = fleetctl(
        "run",
        two_inputs / "model.tfm",
        "--input",
        tmp_path / "in.npz",
        "--out",
        tmp_path / "y.npz",
        "--on",
        "simulator",
    )
    assert typed.code == 1
    assert "x_x" in typed.err
    assert not (tmp_path / "y.npz").exists()


GOOD = np.zeros((2, *SHAPE), np.float32)
BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no x": ({"z": GOOD}, "no array x, only z"),
    "nothing": ({}, "no array x, only nothing"),
    "shape": ({"x": GOOD[:, :1]}, "the model takes (N, 2, 8, 6)"),
    "scalar": ({"x": np.float32(1)}, "the model takes"),
    "type": ({"x": GOOD.astype(np.int32)}, "int32"),
    "text": ({"x": np.array(["a"])}, "the model takes"),
    "objects": ({"x": np.array([{}], dtype=object)}, "no readable NPZ"),
    "nan": ({"x": GOOD * np.nan}, "NaN"),
    "no samples": ({"x": GOOD[:0]}, "no samples"),
    "wrong name": ({"x_other": GOOD}, "is missing"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_run_refuses_inputs_that_do_not_fit(fleetctl: Any, image: Path, tmp_path: Path, case: str) -> None:
    arrays, word = BAD_ARRAYS[case]
    np.savez(tmp_path / "in.npz", **arrays)
    typed = fleetctl(
        "run", image, "--input", tmp_path / "in.npz", "--out", tmp_path / "y", "--on", "simulator", "--json"
    )
    assert (typed.code, typed.out) == (1, "")
    assert word in typed.err
    assert "next:" in typed.err
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("kind", ["empty", "garbage", "cut", "flipped", "npy", "bare"])
def test_run_refuses_files_that_are_no_npz(fleetctl: Any, work: Path, image: Path, tmp_path: Path, kind: str) -> None:
    whole = (work / "data.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    np.save(tmp_path / "one.npy", GOOD)
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as archive:
        archive.writestr("x", b"no array")
    contents = {
        "empty": b"", "garbage": b"no archive", "cut": whole[: len(whole) // 2], "flipped": bytes(flipped),
        "npy": (tmp_path / "one.npy").read_bytes(), "bare": (tmp_path / "bare.zip").read_bytes(),
    }  # fmt: skip
    (tmp_path / "in.npz").write_bytes(contents[kind])
    typed = fleetctl("run", image, "--input", tmp_path / "in.npz", "--out", tmp_path / "y", "--on", "simulator")
    assert typed.code == 1
    assert "no readable NPZ" in typed.err


@pytest.mark.parametrize(("on", "word"), [("abacus", "simulator, host, cortex-m0plus"), ("", "no engine")])
def test_targets_that_do_not_work_yet_say_so(
    fleetctl: Any, work: Path, image: Path, tmp_path: Path, on: str, word: str
) -> None:
    typed = fleetctl("run", image, "--input", work / "data.npz", "--out", tmp_path / "y", "--on", on)
    assert (typed.code, typed.out) == (1, "")
    assert word in typed.err


def test_a_folder_that_is_not_there_is_named(fleetctl: Any, work: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "missing" / "y.npz"
    typed = fleetctl("run", image, "--input", work / "data.npz", "--out", out, "--on", "simulator")
    assert typed.code == 1
    assert typed.err == f"error: {out}: No such file or directory\n"


# ---- every command on a file of the wrong kind


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "BAD", "--device-class", "cortex-m4"],
        ["check", "MODEL", "--device-class", "no-such-class"],
        ["check", "MODEL", "--device-class", "BAD"],
        ["compile", "BAD", "--device-class", "cortex-m4", "--calibration", "DATA", "--out", "OUT"],
        ["compile", "MODEL", "--device-class", "cortex-m4", "--calibration", "BAD", "--out", "OUT"],
        ["compile", "MODEL", "--device-class", "cortex-m4", "--out", "OUT"],
        ["compile", "MODEL", "--device-class", "cortex-m4", "--calibration", "DATA", "--base", "BAD", "--out", "OUT"],
        ["compile", "MODEL", "--device-class", "cortex-m4", "--calibration", "DATA", "--emit", "rust", "--out", "OUT"],
        ["compile", "MODEL", "--device-class", "cortex-m4", "--calibration", "DATA", "--out", "BAD"],
        ["run", "BAD", "--input", "DATA", "--out", "OUT", "--on", "simulator"],
        ["delta", "apply", "IMAGE", "BAD", "--out", "OUT"],
        ["delta", "apply", "IMAGE", "IMAGE", "--out", "OUT"],
        ["delta", "info", "BAD"],
        ["inspect", "BAD"],
        ["inspect", "MODEL"],
    ],
)
def test_a_wrong_file_is_an_error_and_leaves_nothing(
    fleetctl: Any, work: Path, image: Path, tmp_path: Path, arguments: list[str]
) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"\x00\x01 nothing of ours")
    files = {"BAD": bad, "MODEL": work / "net0.onnx", "DATA": work / "data.npz", "IMAGE": image, "OUT": tmp_path / "o"}
    typed = fleetctl(*(files.get(word, word) for word in arguments))
    assert typed.code == 1
    said = typed.out if arguments[:2] == ["check", "BAD"] else typed.err
    assert said.strip()
    assert "Traceback" not in typed.err
    assert not (tmp_path / "o").exists()
    assert bad.read_bytes() == b"\x00\x01 nothing of ours"


# ---- delta and inspect


def test_delta_make_and_info(fleetctl: Any, work: Path, image: Path, tmp_path: Path) -> None:
    new, patch = work / "out1" / "model.tfm", tmp_path / "p"
    typed = fleetctl("delta", "make", image, new, "--out", patch, "--json")
    assert typed.document == {
        "old_bytes": image.stat().st_size,
        "new_bytes": new.stat().st_size,
        "patch_bytes": patch.stat().st_size,
    }
    assert patch.stat().st_size < new.stat().st_size
    told = None if new.stat().st_size == image.stat().st_size else new.stat().st_size
    assert f"new_bytes: {told or 'as the base'}" in fleetctl("delta", "info", patch).out
    assert fleetctl("delta", "info", patch, "-o", "json").document["new_bytes"] == told


def test_inspect_knows_each_of_our_files(fleetctl: Any, work: Path, image: Path, tmp_path: Path) -> None:
    fleetctl("delta", "make", image, work / "out1" / "model.tfm", "--out", tmp_path / "p")
    golden = json.loads((Path(__file__).parents[2] / "golden" / "ota" / "messages.json").read_text())
    valid = {case["kind"]: bytes.fromhex(case["bytes"]) for case in golden["cases"] if case["name"] == "valid"}
    assert {"release", "assignment"} <= set(valid)
    for kind, data in valid.items():
        (tmp_path / kind).write_bytes(data)
        assert fleetctl("inspect", tmp_path / kind).document["kind"] == "message"
    document = fleetctl("inspect", image, "--json").document
    assert (document["kind"], document["device_class"]) == ("model image", "cortex-m4")
    assert fleetctl("inspect", tmp_path / "p").document["kind"] == "patch"
    assert yaml.safe_load(fleetctl("inspect", image, "-o", "yaml").out)["kind"] == "model image"


def compile_with_metric(fleetctl: Any, work: Path, out: Path, metric: str) -> Typed:
    typed: Typed = fleetctl(
        "compile", work / "net0.onnx", "--device-class", "cortex-m4", "--calibration", work / "data.npz",
        "--evaluate", work / "data.npz", "--metric", metric, "--out", out, "--json"
    )  # fmt: skip
    return typed


def test_a_metric_of_ones_own_is_in_the_report(fleetctl: Any, work: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def share(outputs, inputs, y):\n    return (outputs.argmax(1) == y).mean() / 2\n"
    )
    mine = compile_with_metric(fleetctl, work, tmp_path / "a", f"{tmp_path / 'mine.py'}:share")
    plain = compile_with_metric(fleetctl, work, tmp_path / "b", "top1")
    assert mine.document["accuracy"]["metric"] == "mine.py:share"
    assert mine.document["accuracy"]["quantized"] == plain.document["accuracy"]["quantized"] / 2


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("x = 1", "score", "no function 'score'"),
        ("score = 3", "score", "no function 'score'"),
        ("def score(:", "score", "SyntaxError"),
        ("raise SystemExit(0)", "score", "SystemExit"),
        ("def score(outputs, inputs, y):\n    return None", "score", "metric mine.py:score failed"),
        (None, "score", "no metric file"),
    ],
)
def test_a_wrong_metric_file_says_what_is_wrong(
    fleetctl: Any, work: Path, tmp_path: Path, text: str | None, name: str, message: str
) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    typed = compile_with_metric(fleetctl, work, tmp_path / "out", f"{tmp_path / 'mine.py'}:{name}")
    assert typed.code == 1
    assert message in typed.err
    assert not (tmp_path / "out").exists()


def test_device_classes_are_listed_shown_and_checked(fleetctl: Any, tmp_path: Path) -> None:
    rows = fleetctl("device-class", "list", "-o", "json").document
    assert {"cortex-m0plus", "rv32imc", "host"} <= {row["name"] for row in rows}
    mine = tmp_path / "mine.toml"
    mine.write_text(fleetctl("device-class", "show", "cortex-m33").out)
    assert "cortex-m33" in fleetctl("device-class", "check", mine).out
    mine.write_text(mine.read_text().replace("arena_bytes = ", "arena_bytes = -").replace("abi = 1", "abi = 0"))
    wrong = fleetctl("device-class", "check", mine)
    assert wrong.code == 1
    assert all(key in wrong.err for key in ("arena_bytes", "abi"))
    assert "use one of" in fleetctl("device-class", "show", "nonsense").err


def test_pruning_prints_its_curve(fleetctl: Any, work: Path, tmp_path: Path) -> None:
    words = ("compile", work / "net0.onnx", "--device-class", "cortex-m4", "--calibration", work / "data.npz")
    typed = fleetctl(*words, "--out", tmp_path, "--prune-channels", "0.2", "--prune-weights", "0.5")
    assert typed.code == 0
    assert "repaired" in typed.out.lower()
    assert "transfer bytes only" in " ".join(typed.out.split())
    assert json.loads((tmp_path / "report.json").read_text())["pruning"]["asked"]["channels"] == 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prune-channels", "half"), "is no number"),
        (("--prune-channels", "1.5"), "below 1"),
        (("--prune-weights", "nan"), "below 1"),
        (("--accuracy-budget", "1"), "does nothing"),
    ],
)
def test_wrong_pruning_says_what_to_type(
    fleetctl: Any, work: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    model = ("compile", work / "net0.onnx", "--device-class", "cortex-m4", "--calibration", work / "data.npz")
    typed = fleetctl(*model, "--out", tmp_path / "out", *words)
    assert typed.code == 1
    assert message in " ".join(typed.err.split())


def test_a_negative_accuracy_budget_is_wrong_usage(fleetctl: Any, work: Path, tmp_path: Path) -> None:
    model = ("compile", work / "net0.onnx", "--device-class", "cortex-m4", "--calibration", work / "data.npz")
    typed = fleetctl(*model, "--out", tmp_path / "out", "--prune-weights", "auto", "--accuracy-budget", "-1")
    assert typed.code == 2
    assert "--accuracy-budget" in typed.err


def test_symbolic_dimensions_are_given_by_name(fleetctl: Any, tmp_path: Path) -> None:
    model = save_model(tmp_path / "m.onnx", [node("Relu", ["x"])], ["batch", "channels", "time"])
    asked = fleetctl("check", model, "--device-class", "cortex-m4", "--json")
    assert asked.code == 1
    assert "--dim channels=SIZE --dim time=SIZE" in asked.document["problems"][0]["help"]
    given = [word for dim in ("channels=3", "time=8") for word in ("--dim", dim)]
    assert fleetctl("check", model, "--device-class", "cortex-m4", *given).code == 0
    save_samples(tmp_path / "c.npz", (3, 8), 8)
    compiled = fleetctl(
        *("compile", model, "--device-class", "cortex-m4", "--out", tmp_path / "out"),
        *("--calibration", tmp_path / "c.npz", *given),
    )
    assert compiled.code == 0
    assert read_image((tmp_path / "out" / "model.tfm").read_bytes()).inputs[0].shape == (3, 8)


@pytest.mark.parametrize("wrong", ["time", "time=", "=4", "time=0", "time=-1", "time=1e3", "time=9999999999"])
def test_a_dimension_that_is_none(fleetctl: Any, tmp_path: Path, wrong: str) -> None:
    model = save_model(tmp_path / "m.onnx", [node("Relu", ["x"])], ["batch", "time"])
    answer = fleetctl("check", model, "--device-class", "cortex-m4", "--dim", wrong)
    assert answer.code != 0
    assert "NAME=SIZE" in answer.err
