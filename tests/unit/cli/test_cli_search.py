"""`fleetctl compile --search`: what the command line takes and says."""

import json
from pathlib import Path

from typer.testing import CliRunner

from tinyfleet_service.cli.main import make_app
from unit.compiler.onnx_models import save_samples, small_cnn


def run(folder: Path, *more: str) -> tuple[int, str]:
    model, samples = small_cnn(folder / "m.onnx"), save_samples(folder / "c.npz", (2, 8, 6), 64)
    command = ["compile", str(model), "--device-class", "host", "--out", str(folder / "out")]
    result = CliRunner().invoke(make_app(), [*command, "--calibration", str(samples), *more])
    return result.exit_code, f"{result.output} {result.exception}"


def test_a_search_says_what_it_took(tmp_path: Path) -> None:
    code, text = run(tmp_path, "--search", "--flash-budget", "2400", "--search-seconds", "60")
    report = json.loads((tmp_path / "out/report.json").read_text())["quantization"]["search"]
    assert code == 0, text
    assert "held out from fitting" in text
    assert "of 60" in text
    assert all(layer in text for layer in report["int4_layers"])


def test_a_byte_budget_needs_a_search(tmp_path: Path) -> None:
    code, text = run(tmp_path, "--flash-budget", "2400")
    assert code != 0
    assert "a byte budget without --search" in text


def test_a_search_against_a_base(tmp_path: Path) -> None:
    assert run(tmp_path)[0] == 0
    base = (tmp_path / "out/model.tfm").rename(tmp_path / "base.tfm")
    code, text = run(tmp_path, "--search", "--base", str(base), "--search-seconds", "60")
    assert code == 0, text
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["base"]["layers_lent"]
    assert report["quantization"]["search"]["steps"]


def test_a_search_has_nothing_to_choose_in_float32(tmp_path: Path) -> None:
    code, text = run(tmp_path, "--search", "--type", "float32")
    assert code != 0
    assert "--search chooses integer types" in text
