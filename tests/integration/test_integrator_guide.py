"""docs/integrator-guide.md by its word: its code is taken out of the page, compiled and run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tinyfleet_ota import FileSigner, Root, make_root

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "device_agent"
GUIDE = (ROOT / "docs" / "integrator-guide.md").read_text(encoding="utf-8")
STRICT = "-Wall -Wextra -Wpedantic -Werror -Wconversion -Wsign-conversion -Wshadow -Wmissing-prototypes"

CMAKE_TAIL = """
add_executable(board board.c root.c)
target_compile_definitions(board PRIVATE FLASH_BYTES=${FLASH_BYTES})
target_link_libraries(board PRIVATE product fleet_port_posix)
"""


def block(language: str, first: str = "") -> str:
    """The code block of a language whose text begins with `first`."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.S) if text.startswith(first)]
    assert len(found) == 1, f"{len(found)} {language} blocks begin with {first!r}"
    return found[0]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product of the guide, as files; what was built of it for one board serves the next."""
    folder = tmp_path_factory.mktemp("guide") / "product"
    folder.mkdir()
    for name in ("product_fleet_config.h", "product.h", "product_fleet.c"):
        (folder / name).write_text(block("c", f"/* {name}"))
    (folder / "device_agent").symlink_to(AGENT)
    return folder


def cmake(source: Path, *options: str, target: str, lines: str = "") -> Path:
    """Where `target` of the guide's project, with `lines` after its own, was built: a folder for each target."""
    (source / "CMakeLists.txt").write_text(block("cmake") + lines)
    build = source.parent / target
    subprocess.run(["cmake", "-S", source, "-B", build, *options], check=True, capture_output=True)
    done = subprocess.run(["cmake", "--build", build, "-j2", "--target", target], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return build


def write_root(folder: Path) -> None:
    keys = [FileSigner.generate() for _ in range(3)]
    root = Root(1, 1, *((key.public_key,) for key in keys), 1)  # type: ignore[arg-type]
    data = make_root(root, [keys[0]])
    numbers = ", ".join(map(str, data))
    (folder / "root.c").write_text(
        f'#include "product.h"\nconst uint8_t product_root[] = {{{numbers}}};\n'
        f"const uint32_t product_root_bytes = {len(data)};\n"
    )


def run_board(product: Path, flash_bytes: int) -> str:
    shutil.copy(Path(__file__).with_name("guide_board.c"), product / "board.c")
    write_root(product)
    options = ("-DFLEET_POSIX=ON", f"-DFLASH_BYTES={flash_bytes}", f"-DCMAKE_C_FLAGS={STRICT}")
    build = cmake(product, *options, target="board", lines=CMAKE_TAIL)
    done = subprocess.run([build / "board"], cwd=product, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_the_product_of_the_guide_starts_dials_and_resets(product: Path) -> None:
    size = 2 * 4096 + 2 * 64 * 1024  # as the guide computes it
    assert "136 KB" in GUIDE
    assert run_board(product, size) == "ok; dialled again and again; restarts 1"


def test_a_part_with_room_for_one_slot_is_refused_with_the_reason(product: Path) -> None:
    assert "cannot hold two slots" in run_board(product, 2 * 4096 + 64 * 1024)


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="no cross compiler: run `make setup-test`")
def test_the_product_of_the_guide_is_cross_compiled_without_any_package(product: Path) -> None:
    toolchain = AGENT / "ports" / "qemu" / "arm-none-eabi.cmake"
    flags = f"{STRICT} -mcpu=cortex-m4 -mthumb"
    options = ("-DCMAKE_BUILD_TYPE=MinSizeRel", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", f"-DCMAKE_C_FLAGS={flags}")
    build = cmake(product, *options, target="all")
    sizes = subprocess.run(
        ["arm-none-eabi-size", "-t", build / "device_agent" / "src" / "libfleet_agent.a"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    text_bytes = int(sizes.stdout.splitlines()[-1].split()[0])
    assert text_bytes <= 34_000, "the guide promises 31 KB"
