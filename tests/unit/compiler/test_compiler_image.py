"""Images read back as written, stay within their size, and are refused when damaged."""

import contextlib
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import (
    CompileOptions,
    CompileResult,
    ImageError,
    compile_model,
    layout,
    load_device_class,
    read_image,
    simulate,
)
from tinyfleet_compiler.operators import SectionKind, SourceLayout
from tinyfleet_compiler.simulate import golden_bytes, golden_crc
from unit.compiler.onnx_models import save_samples, small_cnn


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    folder = tmp_path_factory.mktemp("image")
    return compile_model(
        small_cnn(folder / "m.onnx"),
        load_device_class("cortex-m4"),
        name="gesture",
        version="v7",
        calibration=save_samples(folder / "c.npz", (2, 8, 6)),
        options=CompileOptions(labels=("left", "right", "up", "dörr")),
    )


def test_what_was_written_is_read(result: CompileResult) -> None:
    image = read_image(result.image)
    assert (image.name, image.version, image.device_class) == ("gesture", "v7", "cortex-m4")
    assert image.labels == ("left", "right", "up", "dörr")
    assert image.inputs[0].shape == (8, 6, 2)
    assert image.inputs[0].source_shape == (2, 8, 6)
    assert image.inputs[0].source_layout is SourceLayout.CHANNELS_FIRST
    assert [t.name for t in image.outputs] == ["y"]
    assert len(image.ops) == 7
    assert len(image.scales) == 7
    assert image.arena_bytes == result.report["arena_bytes"]
    assert len(image.golden.seeds) == 4
    assert golden_crc(image, image.golden.seeds) == image.golden.crc32


def test_sections_cover_what_their_rows_say(result: CompileResult) -> None:
    kinds = [s.kind for s in result.sections]
    assert kinds[:3] == [SectionKind.SCALES, SectionKind.MULTIPLIERS, SectionKind.SHIFTS]
    assert kinds.count(SectionKind.WEIGHTS) == 4
    assert kinds[-1] is SectionKind.BIASES
    ends = 0
    for section in result.sections:
        assert section.offset % 16 == 0
        assert section.offset >= ends
        ends = section.offset + section.size
    assert ends <= len(result.image)
    assert len(result.image) % 16 == 0


def test_image_size_stays_within_its_bound(result: CompileResult) -> None:
    image = read_image(result.image)
    sizes = {kind: sum(s.size for s in image.sections if s.kind is kind) for kind in SectionKind}
    payload = sizes[SectionKind.WEIGHTS] + sizes[SectionKind.BIASES] + 5 * image.header["channel_count"]
    golden = image.header["golden_bytes"]
    assert len(result.image) <= payload + golden + 1024 + 64 * len(image.ops)


def test_golden_generator_is_xorshift32() -> None:
    state, expected = 1, []
    for _ in range(6):
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        expected.append(struct.unpack("b", bytes([state >> 24]))[0])
    values, end = golden_bytes(1, 6)
    assert values.tolist() == expected
    assert end == state


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_is_refused(result: CompileResult, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(result.image) * 8 - 1))
    damaged = bytearray(result.image)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ImageError):
        read_image(bytes(damaged))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_forged_front_part_never_crashes_the_reader(result: CompileResult, data: st.DataObject) -> None:
    """The CRC is made right again: only the structure checks are left to refuse."""
    forged = bytearray(result.image)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(2, len(forged) // 4 - 1)) * 4
        value = data.draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, len(forged), len(forged) - 1]))
        forged[at : at + 4] = struct.pack("<I", value)
    forged[4:8] = struct.pack("<I", zlib.crc32(bytes(forged[layout.CRC_START :])))
    refused = ""
    try:
        image = read_image(bytes(forged))
    except ImageError as error:
        refused = str(error)
    else:
        if image.arena_bytes <= 1 << 16:  # larger ones are legal and only slow
            inputs = {t.name: np.zeros((1, *t.shape), np.int8) for t in image.inputs}
            # What a compiler proves of its sums does not hold for forged ones; the C runtime's wrap.
            with contextlib.suppress(AssertionError):
                assert simulate(image, inputs)
    assert not refused or "again" in refused


@pytest.mark.parametrize("size", [0, 1, 3, 159, 160, 500])
def test_truncated_images_are_refused(result: CompileResult, size: int) -> None:
    with pytest.raises(ImageError):
        read_image(result.image[:size])
    with pytest.raises(ImageError):
        read_image(result.image + bytes(16))


def test_emitted_c_holds_the_image(result: CompileResult, tmp_path: Path) -> None:
    from tinyfleet_compiler.emit.c_source import emit_c

    sources = emit_c(read_image(result.image))
    numbers = re.findall(r"0x([0-9a-f]{2})", sources["model.c"])
    assert bytes(int(n, 16) for n in numbers) == result.image
    assert f"MODEL_ARENA_BYTES {result.report['arena_bytes']}u" in sources["model.h"]


def test_report_holds_the_public_keys(result: CompileResult, tmp_path: Path) -> None:
    report = result.report
    for key in [
        "device_class",
        "image_bytes",
        "arena_bytes",
        "arena_lower_bound_bytes",
        "scratch_bytes",
        "state_bytes",
        "macs",
        "params",
        "inputs",
        "outputs",
        "accuracy",
        "estimate",
        "fits",
        "layers",
    ]:
        assert key in report, key
    assert len(report["model"]["sha256"]) == 64
    assert set(report["inputs"][0]) >= {"name", "shape", "layout", "type", "scale", "zero_point"}
    assert set(report["accuracy"]) >= {"metric", "float", "quantized", "agreement"}
    assert set(report["estimate"]) >= {"instructions", "latency_ms", "energy_uj"}
    assert report["fits"]["flash"]
    assert report["fits"]["arena"]
    assert report["fits"]["shadow"]
    assert report["macs"] == 8 * 6 * (6 * 18 + 6 * 9 + 36) + 4 * 72
    assert min(layer["signal_to_noise_db"] for layer in report["layers"]) > 20
    result.write(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.tfm", "report.html", "report.json"]


def test_report_page_is_self_contained_and_escapes(result: CompileResult) -> None:
    from tinyfleet_compiler.report_html import render_report

    page = render_report({**result.report, "model": {**result.report["model"], "name": "<script>alert(1)</script>"}})
    assert "<script" not in page
    assert "&lt;script" in page
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page)


def test_base_scales_are_kept_for_a_fine_tune(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    first, second = small_cnn(tmp_path / "a.onnx"), tmp_path / "b.onnx"
    model = onnx.load(first)
    rng = np.random.default_rng(4)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        changed = (value * (1 + 0.02 * rng.normal(size=value.shape))).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    second.write_bytes(model.SerializeToString())
    data = save_samples(tmp_path / "c.npz", (2, 8, 6), 64)
    other = save_samples(tmp_path / "d.npz", (2, 8, 6), 64, seed=9)

    def image(path: Path, calibration: Path, base: bytes | None = None) -> CompileResult:
        options = CompileOptions(base=base, estimator="min-max")
        m4 = load_device_class("cortex-m4")
        return compile_model(path, m4, name="m", version="v", calibration=calibration, evaluation=data, options=options)

    old = image(first, data)
    free, kept = image(second, other), image(second, other, old.image)

    def same_multipliers(result: CompileResult) -> float:
        a, b = read_image(old.image), read_image(result.image)
        pair = [i.section_array(next(s for s in i.sections if s.kind is SectionKind.MULTIPLIERS)) for i in (a, b)]
        return float((pair[0] == pair[1]).mean())

    assert same_multipliers(kept) > 0.8 > 0.2 > same_multipliers(free)
    assert kept.report["accuracy"]["agreement"] > 0.9
