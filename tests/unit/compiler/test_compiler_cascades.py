"""Row cascades: plans are proved, bytes stay the same, the verifier sees a byte that lies too near."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import CompileOptions, VerifyError, compile_model, load_device_class, read_image
from tinyfleet_compiler.compile_graph import Compiled, Identity, compile_graph
from tinyfleet_compiler.errors import ImageError
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.rows import cascade_steps
from tinyfleet_compiler.verify_plan import verify_plan
from tinyfleet_compiler.write_image import write_image
from tinyfleet_service.cli.engines import run_image
from unit.compiler.cascade_models import (
    SEEN,
    apart,
    bottleneck,
    compiled_for_ram,
    image_spec,
    in_strips,
    load,
    poisoned_outputs,
    row_graphs,
    sequence,
    wide_model,
)
from unit.compiler.onnx_models import node, small_cnn

ROOT = Path(__file__).resolve().parents[3]
MLPERF = Path(os.environ.get("TINYFLEET_SHARED", ROOT.parent / "shared")) / "models" / "mlperf_tiny"
needs_models = pytest.mark.skipif(not MLPERF.is_dir(), reason="TINYFLEET_SHARED names no folder with models")
M4 = load_device_class("cortex-m4")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row_graphs(), st.integers(0, 2**16))
def test_random_graphs_keep_their_bytes(tmp_path: Path, drawn: Any, seed: int) -> None:
    compiled = compiled_for_ram(load(tmp_path / "m.onnx", drawn))
    alone = apart(compiled)
    for made in (compiled, in_strips(compiled, 2), in_strips(compiled, 3)):
        assert made.plan.lower_bound_bytes <= made.plan.arena_bytes
        for mine, theirs in zip(poisoned_outputs(made.image, seed), poisoned_outputs(alone, seed), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_sequence_runs_step_by_step(tmp_path: Path) -> None:
    graph = sequence(tmp_path)
    made = compiled_for_ram(graph)
    seen = dict.fromkeys([*graph.inputs, *(n.output for n in graph.nodes)], SEEN)
    whole = compile_graph(graph, seen, "min-max", Identity("m", "v", "host"), golden_vectors=1)
    assert [(c.first, c.end) for c in made.plan.cascades] == [(0, 5)]
    assert made.plan.arena_bytes <= 1_400 < 6_400 <= whole.plan.arena_bytes
    for mine, theirs in zip(poisoned_outputs(made.image, 3), poisoned_outputs(whole.image, 3), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_strips_compute_no_more_than_the_arena_asks_for(tmp_path: Path) -> None:
    """Rows of wide layers are larger than the device: the fewer strips, the fewer borders computed twice."""
    graph = bottleneck(tmp_path)
    rows = compiled_for_ram(graph)
    alone, found = apart(rows), []
    for budget in (6000, 4000, 3100):
        made = compiled_for_ram(graph, arena_bytes=budget)
        assert made.plan.arena_bytes <= budget < rows.plan.arena_bytes
        for mine, theirs in zip(poisoned_outputs(made.image, 3), poisoned_outputs(alone, 3), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        found.append(sum(cascade.recomputed_macs for cascade in made.plan.cascades))
    assert 0 < found[0] < found[1] < found[2]
    assert compiled_for_ram(graph, arena_bytes=rows.plan.arena_bytes).data == rows.data
    assert compiled_for_ram(graph, arena_bytes=1).plan.arena_bytes <= 3100  # nothing fits: as small as it gets


def test_recomputed_macs_are_those_of_the_steps(tmp_path: Path) -> None:
    made = compiled_for_ram(bottleneck(tmp_path), arena_bytes=4000)
    pixels = [0] * len(made.ops)
    for cascade in made.image.cascades:
        for step in cascade_steps(made.image, cascade):
            pixels[step.index] += step.columns.columns
    again = 0
    for op, count in zip(made.ops, pixels, strict=True):
        height, width, _ = made.graph.shapes[op.output]
        again += op.macs * (count - height * width) // (height * width) if count else 0
    assert again == sum(cascade.recomputed_macs for cascade in made.plan.cascades) > 0
    cascade = made.plan.cascades[0]
    assert [cascade.times(m) for m in range(3)] == [pixels[m] / (6 * 24) for m in range(3)]


def test_the_report_tells_what_patches_cost(tmp_path: Path) -> None:
    """A class too small for whole rows: more MACs and instructions, in the report's own words."""
    model = wide_model(tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).normal(size=(8, 8, 6, 24)).astype(np.float32))
    options = CompileOptions(optimize="ram", estimator="min-max", golden_vectors=1)
    roomy, tight = (
        compile_model(
            model,
            replace(M4, arena_bytes=arena),
            name="m",
            version="v",
            calibration=tmp_path / "c.npz",
            evaluation=None,
            options=options,
        ).report
        for arena in (32_768, 4_096)
    )
    plan = tight["memory_plan"]
    assert tight["arena_bytes"] <= 4_096 < roomy["arena_bytes"]
    assert (roomy["memory_plan"]["recomputed_macs"], tight["fits"]["arena"]) == (0, True)
    assert plan["recomputed_macs"] == sum(c["recomputed_macs"] for c in plan["cascades"]) > 0
    assert plan["recomputed_share"] == round(plan["recomputed_macs"] / tight["macs"], 4)
    assert tight["estimate"]["instructions"] > roomy["estimate"]["instructions"]


def test_the_verifier_refuses_a_border_that_nobody_made(tmp_path: Path) -> None:
    """One column less of what a window reads: a reader sees it. One that is written over: the verifier does."""
    made = compiled_for_ram(bottleneck(tmp_path), arena_bytes=4000)
    cascade = made.plan.cascades[0]
    strip = list(cascade.strips[0])
    strip[0] = replace(strip[0], columns=strip[0].columns - 1)
    narrower = replace(cascade, strips=(tuple(strip), *cascade.strips[1:]))
    with pytest.raises(ImageError, match="does not make the columns"):
        verify(made, replace(made.plan, cascades=(narrower, *made.plan.cascades[1:])))
    room = replace(made.plan, arena_bytes=made.plan.arena_bytes + 8)
    verify(made, room)
    for name, by in touching(made):
        if room.offsets[name] + by >= 0:
            with pytest.raises((ImageError, VerifyError)):
                verify(made, replace(room, offsets=room.offsets | {name: room.offsets[name] + by}))


def residual_chain(folder: Path) -> Compiled:
    """A residual block on (12, 8) pixels with a stride behind it: all of it runs by rows."""
    rng = np.random.default_rng(5)
    weights = {f"w{i}": rng.normal(size=(8, 4 if i == 0 else 8, 3, 3)).astype(np.float32) for i in range(4)}
    nodes = [
        node("Conv", ["x", "w0"], "a", pads=[1] * 4),
        node("Conv", ["a", "w1"], "b", pads=[1] * 4),
        node("Conv", ["b", "w2"], "c", pads=[1] * 4),
        node("Add", ["a", "c"], "s"),
        node("Conv", ["s", "w3"], "y", pads=[0, 0, 1, 1], strides=[2, 2]),
    ]
    return compiled_for_ram(load(folder / "m.onnx", (nodes, weights, ["y"])))


def test_a_residual_block_runs_by_rows(tmp_path: Path) -> None:
    compiled = residual_chain(tmp_path)
    (cascade,) = compiled.plan.cascades
    # Rows of 5 pixels: `a` waits for two convolutions (rows y to y + 2) and their sum, `c` is read at once.
    kept = {op.output: link.ring_rows for op, link in zip(compiled.ops, cascade.links, strict=True)}
    assert kept["c"] == 1
    assert kept["b"] == 3
    assert compiled.plan.arena_bytes < 9 * 5 * 8 * 2
    assert sum(cascade.rings.values()) <= compiled.plan.arena_bytes


def verify(compiled: Compiled, plan: Any) -> None:
    image = read_image(write_image(image_spec(compiled, plan=plan)))
    graph = compiled.graph
    sizes = {n: int(np.prod(graph.shapes[n])) for n in (*graph.inputs, *(op.output for op in compiled.ops))}
    verify_plan(image, compiled.ops, sizes, graph.inputs, [graph.root(o) for o in graph.outputs])


def touching(compiled: Compiled) -> list[tuple[str, int]]:
    """Tensors whose next place up or down belongs to another at some time, by a shift of one pixel (at most)."""
    plan, found = compiled.plan, []
    for name, at in plan.offsets.items():
        for other, place in plan.offsets.items():
            lives = (
                plan.lifetimes[name][0] <= plan.lifetimes[other][1]
                and plan.lifetimes[other][0] <= plan.lifetimes[name][1]
            )
            if other != name and lives and place + plan.sizes[other] == at:
                found.append((name, -4))
            if other != name and lives and at + plan.sizes[name] == place:
                found.append((name, 4))
    return found


def test_the_verifier_refuses_one_pixel_nearer(tmp_path: Path) -> None:
    compiled = residual_chain(tmp_path)
    plan = compiled.plan
    room = replace(plan, arena_bytes=plan.arena_bytes + 8, offsets={n: at + 4 for n, at in plan.offsets.items()})
    verify(compiled, room)
    moves = touching(compiled)
    assert len(moves) >= 4
    for name, by in moves:
        nearer = replace(room, offsets=room.offsets | {name: room.offsets[name] + by})
        with pytest.raises(VerifyError, match=r"overwritten|before reading"):
            verify(compiled, nearer)


@pytest.mark.parametrize("change", [{"ring_rows": -1, "slide_rows": -1}, {"slide_rows": 1}])
def test_rings_are_as_small_as_they_can_be(tmp_path: Path, change: dict[str, int]) -> None:
    """One row less, or one more dropped at once, and a row is gone before it is read."""
    compiled = residual_chain(tmp_path)
    (cascade,) = compiled.plan.cascades
    refused = 0
    for member, link in enumerate(cascade.links):
        smaller = replace(link, **{field: max(1, getattr(link, field) + by) for field, by in change.items()})
        if smaller == link or smaller.slide_rows > smaller.ring_rows or link.ring_rows == link.rows:
            continue
        links = (*cascade.links[:member], smaller, *cascade.links[member + 1 :])
        with pytest.raises((ImageError, VerifyError)):
            verify(compiled, replace(compiled.plan, cascades=(replace(cascade, links=links),)))
        refused += 1
    assert refused


def test_the_verifier_refuses_a_wrong_source(tmp_path: Path) -> None:
    compiled = residual_chain(tmp_path)
    (cascade,) = compiled.plan.cascades
    at = next(i for i, link in enumerate(cascade.links) if link.sources[1] is not None)
    one, other = cascade.links[at].sources
    links = list(cascade.links)
    links[at] = replace(links[at], sources=(other, one))
    with pytest.raises(VerifyError, match="fed by another op"):
        verify(compiled, replace(compiled.plan, cascades=(replace(cascade, links=tuple(links)),)))


BARS = {"ic_resnet8": 30_000, "vww_mobilenetv1_025_96": 28_672}


@needs_models
@pytest.mark.parametrize("name", sorted(BARS))
def test_mlperf_models_in_less_than_their_largest_layers(name: str) -> None:
    graph = load_graph(MLPERF / f"{name}_int8.tflite")
    identity = Identity("m", "v", "cortex-m4", kernels="dsp")
    plain = compile_graph(graph, {}, "as-imported", identity, golden_vectors=1)
    ram = compile_graph(graph, {}, "as-imported", identity, golden_vectors=1, optimize="ram")
    assert ram.plan.lower_bound_bytes == ram.plan.arena_bytes <= BARS[name] < plain.plan.arena_bytes
    assert len(ram.data) <= len(plain.data) + 12 * len(ram.ops) + 32
    for mine, theirs in zip(poisoned_outputs(ram.image, 3, 2), poisoned_outputs(plain.image, 3, 2), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    (tensor,) = ram.image.inputs
    x = np.random.default_rng(1).integers(-128, 128, (1, *tensor.shape)).astype(np.int8)
    in_c, simulated = (run_image(ram.data, x, engine).outputs for engine in ("host", "simulator"))
    np.testing.assert_equal(in_c, simulated)


def compile_small(folder: Path, optimize: str) -> Any:
    model = small_cnn(folder / "m.onnx")
    x = np.random.default_rng(0).normal(size=(8, 2, 8, 6)).astype(np.float32)
    np.savez(folder / "c.npz", x=x)
    options = CompileOptions(optimize=optimize, estimator="min-max")
    return compile_model(
        model, M4, name="m", version="v", calibration=folder / "c.npz", evaluation=None, options=options
    )


def test_the_report_tells_what_cascades_cost(tmp_path: Path) -> None:
    result = compile_small(tmp_path, "ram")
    plan = result.report["memory_plan"]
    assert plan["optimize"] == "ram"
    assert plan["cascades"]
    assert (plan["recomputed_macs"], plan["recomputed_share"]) == (0, 0.0)
    assert plan["moved_bytes"] == sum(c["moved_bytes"] for c in plan["cascades"]) > 0
    assert json.loads(json.dumps(result.report)) == result.report
    assert "Run row by row: " in result.report_html
    assert result.report["arena_bytes"] < compile_small(tmp_path, "balanced").report["arena_bytes"]


def test_flash_leaves_out_what_a_device_does_not_need(tmp_path: Path) -> None:
    small, usual = compile_small(tmp_path, "flash"), compile_small(tmp_path, "balanced")
    image = read_image(small.image)
    assert len(small.image) < len(usual.image)
    assert (len(image.golden.seeds), image.scales) == (1, ())
    assert small.report["arena_bytes"] == usual.report["arena_bytes"]


def test_speed_is_the_balanced_plan(tmp_path: Path) -> None:
    assert compile_small(tmp_path, "speed").image == compile_small(tmp_path, "balanced").image


def test_an_unknown_aim_is_refused() -> None:
    with pytest.raises(ValueError, match="balanced, ram, flash, speed"):
        CompileOptions(optimize="size")
