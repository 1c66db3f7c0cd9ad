"""Hostile model files: a clear answer for each, within limits of time and memory, nothing outside touched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tinyfleet_compiler import check_model, load_device_class
from unit.compiler import import_fuzz
from unit.compiler.import_fuzz_tflite import tflite_bases
from unit.compiler.onnx_models import node, save_model

TESTS = Path(__file__).parents[2]
M4 = load_device_class("cortex-m4")


def test_mutations_begin_from_good_files(tmp_path: Path) -> None:
    bases = [*import_fuzz.onnx_bases(tmp_path), *tflite_bases()]
    for number, data in enumerate(bases):
        path = tmp_path / f"{number}.model"
        path.write_bytes(data)
        assert check_model(path, M4).fits, check_model(path, M4).problems


def test_more_nodes_than_anything_runs(tmp_path: Path) -> None:
    for count, word in ((1001, "at most 1000 are planned"), (5001, "at most 5000 are read")):
        names = ["x", *(f"t{i}" for i in range(count))]
        pools = [node("MaxPool", [names[i]], names[i + 1], kernel_shape=[1, 1]) for i in range(count)]
        path = save_model(tmp_path / "m.onnx", pools, [1, 1, 2, 2], outputs=(names[-1],))
        assert word in str(check_model(path, M4).problems[0])


def test_a_wide_graph_is_planned(tmp_path: Path) -> None:
    """200 branches, each of which could run next: choosing costs the square of them, not the cube."""
    branches = [node("MaxPool", ["x"], f"t{i}", kernel_shape=[2, 2], pads=[0, 0, 1, 1]) for i in range(200)]
    path = save_model(
        tmp_path / "m.onnx",
        [*branches, node("Concat", [f"t{i}" for i in range(200)], axis=1)],
        [1, 1, 4, 4],
    )
    assert check_model(path, M4).fits


@pytest.mark.skipif(sys.platform != "linux", reason="the child reads /proc and sets Linux limits")
def test_hostile_files_get_an_answer_within_limits(tmp_path: Path) -> None:
    """200 of what `make bench-import-fuzz` runs by the ten thousand."""
    command = [sys.executable, "-m", "unit.compiler.import_fuzz", "0", "200", str(tmp_path)]
    child = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout)
    assert found["failures"] == []
    assert found["files"] == 200
    assert found["outcomes"].keys() == {"fits", "problems"}


def test_the_watch_sees_what_it_should(tmp_path: Path) -> None:
    """A reader that opens a file outside, or writes, is a failure: the harness itself is not blind."""
    code = (
        "import sys; from pathlib import Path; from unit.compiler.import_fuzz import Watch\n"
        "w = Watch(Path(sys.argv[1])); w.on = True\n"
        "open('/etc/hostname').close(); (Path(sys.argv[1]) / 'new').write_text('x'); w.on = False\n"
        "print(len(w.wrong))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    child = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=300, check=True)
    assert child.stdout.split() == ["2"]
