"""The generated page of kernels names every operator and the kernels that the kernel table has."""

import re

from agent import cbuild
from tinyfleet_compiler.operators import OpCode

PAGE = (cbuild.RUNTIME / "KERNELS.md").read_text()
TABLE = (cbuild.RUNTIME / "kernel_table.c").read_text()
ROWS = {
    cells[0]: cells[1:] for cells in re.findall(r"^\| ([A-Z0-9_]+) " + r"\| ([^|]*) " * 6 + r"\|$", PAGE, re.MULTILINE)
}
ENTRIES = dict(re.findall(r"\[FLEET_OP_(\w+)\] = ([^,]+),", TABLE))


def test_every_operator_has_a_row() -> None:
    """After a new operator: `make bench-kernel-sizes`."""
    assert set(ROWS) == set(ENTRIES) == {code.name for code in OpCode}


def test_rows_name_the_kernels_of_the_table() -> None:
    for name, (_, file, portable, dsp, mve, _) in ROWS.items():
        entry = ENTRIES[name]
        assert (dsp == "portable") == (not entry.startswith("FAST")), name
        assert (mve == "portable") == (not entry.startswith(("FAST", "HELIUM"))), name
        assert re.fullmatch(r"[\d,]+; [\d,]+", portable), name
        kernel = re.sub(r"(?:FAST|HELIUM)\((\w+)\)", r"fleet_\1", entry)
        assert f" {kernel}(" in (cbuild.RUNTIME / file.strip("`")).read_text(), name


def test_stack_stays_below_its_bar() -> None:
    sizes = [cell.split("; ")[1] for cells in ROWS.values() for cell in cells[2:5] if cell != "portable"]
    assert max(int(size.replace(",", "")) for size in sizes) <= 1024
