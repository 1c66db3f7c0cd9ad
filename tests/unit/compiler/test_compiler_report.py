"""The report as data and as a page: accuracy by class, output error, plots, and that a browser shows it offline."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler import CompileOptions, CompileResult, compile_model, load_device_class
from tinyfleet_compiler.report_accuracy import MOST_STEPS
from tinyfleet_compiler.report_html import render_report
from tinyfleet_compiler.report_plots import Column, Dot, column_plot, dot_plot, line_plot, short_name, ticks
from unit.compiler.onnx_models import save_samples, small_cnn

LABELS = ("left", "right", "up", "dörr")
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    folder = tmp_path_factory.mktemp("report")
    samples = save_samples(folder / "c.npz", (2, 8, 6))
    labels = np.arange(len(np.load(samples)["x"])) % len(LABELS)
    np.savez(folder / "e.npz", x=np.load(samples)["x"], y=labels)
    return compile_model(
        small_cnn(folder / "m.onnx"),
        load_device_class("cortex-m4"),
        name="gesture",
        version="v7",
        calibration=samples,
        evaluation=folder / "e.npz",
        options=CompileOptions(labels=LABELS),
    )


def test_classes_and_confusion_add_up_to_the_accuracy(result: CompileResult) -> None:
    accuracy = result.report["accuracy"]
    for kind in ("float", "quantized"):
        table = np.array(accuracy["confusion"][kind])
        assert table.sum() == accuracy["samples"]
        assert np.trace(table) / table.sum() == pytest.approx(accuracy[kind])
        for row, true in zip(accuracy["classes"], table, strict=True):
            assert row["samples"] == true.sum()
            right = row[kind] * row["samples"]
            assert right == pytest.approx(true[accuracy["classes"].index(row)])
    assert [row["label"] for row in accuracy["classes"]] == list(LABELS)


def test_output_error_is_counted_in_steps_of_the_output(result: CompileResult) -> None:
    error = result.report["accuracy"]["error"]
    assert error["step"] == result.report["outputs"][0]["scale"]
    assert error["steps"] == list(range(-MOST_STEPS, MOST_STEPS + 1))
    assert sum(error["shares"]) == pytest.approx(1.0)
    assert 0 < error["rms_steps"] <= error["largest_steps"]


def test_page_has_every_part_of_the_report(result: CompileResult) -> None:
    for part in ("Accuracy and error", "Memory over time", "Layers", "Image bytes", "Inputs and outputs", "Fit"):
        assert f"<h2>{part}</h2>" in result.report_html, part
    for plot in (
        "share right by class",
        "confusion matrix",
        "% of values over",
        "dB over layer",
        "memory map over time",
    ):
        assert f"aria-label='{plot}" in result.report_html, plot
    assert "dörr answered as left" in result.report_html


def test_page_without_evaluation_says_how_to_get_it(result: CompileResult) -> None:
    report = json.loads(json.dumps(result.report))
    report["accuracy"] |= {"samples": 0, "classes": None, "confusion": None, "error": None}
    assert "give labelled samples with --evaluate" in render_report(report)


def test_labels_and_names_are_escaped_in_plots(result: CompileResult) -> None:
    report: dict[str, Any] = json.loads(json.dumps(result.report))
    report["accuracy"]["classes"][0]["label"] = "<b>'&"
    report["layers"][0]["name"] = "'><script>"
    report["memory"][0]["tensor"] = "'><script>"
    page = render_report(report)
    assert "<script" not in page
    assert "<b>'" not in page


def test_plots_draw_single_and_equal_points() -> None:
    for plot in (
        line_plot({"a": [(1.0, 1.0)], "b": [(1.0, 1.0)]}, "x", "y"),
        dot_plot([Dot("one", 5.0, 0.0, chosen=True)], "x", "y"),
        column_plot([Column("zero", 0.0)], "x", "y"),
        column_plot([Column("down", -3.0), Column("up", 4.0)], "x", "y", first=-1),
    ):
        assert "nan" not in plot
        assert "inf" not in re.sub("info", "", plot)


def test_ticks_are_round_and_within() -> None:
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(0.93, 0.98) == pytest.approx([0.93, 0.94, 0.95, 0.96, 0.97, 0.98])
    assert short_name("model/conv/Relu;model/conv/BiasAdd") == "conv/Relu"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_the_page_with_the_network_off(
    result: CompileResult, chromium: Any, tmp_path: Path, scheme: str
) -> None:
    result.write(tmp_path)
    context = chromium.new_context(offline=True, color_scheme=scheme)
    page, requested, problems = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    address = (tmp_path / "report.html").as_uri()
    page.goto(address)
    assert requested == [address]
    assert problems == []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"scrolls sideways at {width} px"
    assert page.locator("svg").count() == 5
    assert page.locator("svg").first.is_visible()
    context.close()
