"""SPEC.md, fleet_image.h and the Python tables say the same."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tinyfleet_compiler import generate, layout
from tinyfleet_compiler.operators import OPERATORS, OpCode


def test_regenerating_changes_nothing() -> None:
    assert generate.HEADER_PATH.read_text() == generate.c_header()
    assert generate.TABLES_PATH.read_text() == generate.c_tables()
    assert generate.FLOAT_PATH.read_text() == generate.float_header()
    assert generate.SPEC_PATH.read_text() == generate.spec_text(generate.SPEC_PATH.read_text())


def test_spec_constants_are_those_of_the_header() -> None:
    header = dict(re.findall(r"#define (FLEET_\w+) (\w+?)u?\n", generate.HEADER_PATH.read_text()))
    spec = re.findall(r"^\| (FLEET_\w+) \| (\w+) \|$", generate.SPEC_PATH.read_text(), re.MULTILINE)
    assert len(spec) > 30
    for name, value in spec:
        assert int(header[name], 0) == int(value, 0), name


@pytest.mark.parametrize("record", layout.ALL_RECORDS, ids=lambda r: r.name)
def test_records_are_naturally_aligned_without_gaps(record: layout.Record) -> None:
    for offset, field in record.offsets():
        assert offset % (field.size // field.count) == 0, field.name
    assert record.size % 4 == 0


def test_every_operator_has_a_record_and_stays_within_100_bytes() -> None:
    assert set(OPERATORS) == set(OpCode)
    for info in OPERATORS.values():
        assert layout.RECORDS[info.record].size <= 100


def test_record_values_survive_packing() -> None:
    record = layout.OP_TRANSPOSE
    values = {f.name: tuple(range(f.count)) if f.count > 1 else 1 for f in record.fields}
    assert record.unpack(record.pack(values)) == values


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_header_compiles_without_warnings(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / "use.c"
    source.write_text('#include "fleet_image.h"\nint main(void) { return (int)sizeof(fleet_op_conv_t) - 64; }\n')
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    include = f"-I{generate.HEADER_PATH.parent}"
    subprocess.run([compiler, *flags, include, str(source), "-o", str(tmp_path / "use")], check=True)
    assert subprocess.run([str(tmp_path / "use")], check=False).returncode == 0
