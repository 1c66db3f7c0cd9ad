"""What a C++ product needs of our headers: they compile, and their functions are linked under their C names."""

import re
import subprocess
from pathlib import Path

import pytest

from agent import cbuild

HEADERS = [cbuild.INCLUDE / f"fleet_{name}.h" for name in ("status", "runtime", "agent", "boot", "delta")]
HEADERS += [cbuild.INCLUDE / f"fleet_{name}.h" for name in ("ed25519", "mqtt", "provision", "image", "protocol")]
HEADERS += [cbuild.DEVICE_AGENT / "ports" / "posix" / "fleet_posix.h"]
HEADERS += [cbuild.DEVICE_AGENT / "ports" / "cortex_m" / "dwt.h"]
DECLARED = re.compile(r"^(?!static |typedef |#)\w[\w *]*?\b(fleet_\w+)\(", re.M)


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.stem)
def test_a_header_serves_cpp(tmp_path: Path, header: Path) -> None:
    names = DECLARED.findall(header.read_text())
    uses = "".join(f"    reinterpret_cast<void (*)()>(&{name}),\n" for name in names)
    lines = [f'#include "{header}"', "void (*const used[])() = {", uses + "    nullptr};"]
    lines += ["extern void (*const *first)();", "void (*const *first)() = used;"]
    (tmp_path / "used.cpp").write_text("\n".join(lines) + "\n")
    command = ["clang", "-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
    command += [f"-I{cbuild.INCLUDE}", "-c", str(tmp_path / "used.cpp"), "-o", str(tmp_path / "used.o")]
    subprocess.run(command, check=True, env=cbuild.clean_env())
    asked = subprocess.run(["nm", "-u", tmp_path / "used.o"], check=True, capture_output=True, text=True).stdout
    assert set(names) == set(re.findall(r"U (\S+)", asked))


def test_every_header_with_functions_is_tried() -> None:
    found = {path for path in cbuild.INCLUDE.glob("*.h") if DECLARED.search(path.read_text())}
    assert found <= set(HEADERS)


def test_the_guide_lists_what_init_answers() -> None:
    header = (
        (cbuild.INCLUDE / "fleet_agent.h").read_text().split("fleet_status_t fleet_agent_init")[0].rsplit("/**", 1)[1]
    )
    guide = (cbuild.ROOT / "docs" / "integrator-guide.md").read_text()
    listed = re.findall(r"^\| `(FLEET_ERR_\w+)` \|", guide, re.M)
    assert sorted(listed) == sorted(re.findall(r"FLEET_ERR_\w+", header))
