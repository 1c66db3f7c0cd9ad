"""Flash, RAM and stack of the agent on a Cortex-M4, module by module. `make bench-footprint`.

arm-none-eabi-gcc -Os, each file of device_agent/src compiled alone; sizes are those of its sections before the linker
leaves out what a product does not call. Then the whole agent linked with everything of fleet_agent.h called, file by
file and with link-time optimisation. Not the agent, and not counted: the model runtime, ports with their crypto and
TLS, the certificate request (`provision.c`), the strictness of Ed25519 (`ed25519_strict.c`) and what a bootloader links
(`boot_select.c`). Stack is the largest frame of a module; deepest chains add up to more. RAM is `fleet_agent_t`, split
into decoder state, receive buffers and the rest. All with the default knobs of fleet_config.h. The component
`firmware` is off by default and measured apart, as is the smallest build that still does signed delta updates with
self-revert and telemetry.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AGENT = ROOT / "device_agent"
RESULTS = ROOT / "benchmarks" / "results" / "footprint.json"
NOT_THE_AGENT = ("provision", "ed25519_strict", "boot_select")
FLAGS = ["-std=c99", "-Os", "-mcpu=cortex-m4", "-mthumb", "-ffunction-sections", "-fdata-sections", "-fstack-usage"]
LEAST = [f"-DFLEET_WITH_{feature}=0" for feature in ("COMMANDS", "ENCRYPTION", "LABELS", "SHADOW")]
POINTER_BYTES = 4
FLASH_BAR, DECODER_BAR, RAM_BAR = 20 * 1024, 3 * 1024, 3 * 1024
PARTS = {
    "decoder state": "((fleet_agent_t *)0)->download.work",
    "write unit": "((fleet_agent_t *)0)->download.unit",
    "receive buffer": "((fleet_agent_t *)0)->rx",
    "input buffer": "((fleet_agent_t *)0)->input",
    "send queue": "((fleet_agent_t *)0)->tx",
    "counters": "((fleet_agent_t *)0)->counters",
    "labels": "((fleet_agent_t *)0)->labels",
    "events": "((fleet_agent_t *)0)->events",
    "components": "((fleet_agent_t *)0)->components",
    "root": "fleet_root_t",
    "all": "fleet_agent_t",
}
OUTSIDE_THE_BAR = ("decoder state", "write unit", "receive buffer", "input buffer")


def run(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def compile_to(folder: Path, source: Path, *flags: str) -> Path:
    target = folder / f"{source.stem}.o"
    includes = [f"-I{AGENT / 'include'}", f"-I{AGENT / 'src'}"]
    run("arm-none-eabi-gcc", *FLAGS, *flags, *includes, "-c", source, "-o", target)
    return target


def flash_of(target: Path) -> int:
    """Code and constants, bytes."""
    text, data = run("arm-none-eabi-size", target).splitlines()[1].split()[:2]
    return int(text) + int(data)


def linked_flash(folder: Path, *flags: str) -> int:
    """Code and constants of one program that calls every public function of the agent; ports and runtime stay open."""
    names = sorted(set(re.findall(r"\b(fleet_agent_\w+)\(", (AGENT / "include" / "fleet_agent.h").read_text())))
    calls = folder / "calls.c"
    calls.write_text(
        '#include "fleet_agent.h"\nvoid (*const calls[])(void) = {(void (*)(void))'
        + ", (void (*)(void))".join(names)
        + "};\n"
    )
    sources = [calls, *(path for path in sorted((AGENT / "src").glob("*.c")) if path.stem not in NOT_THE_AGENT)]
    objects = [compile_to(folder, source, *flags) for source in sources]
    program = folder / "agent.elf"
    link = ["-nostdlib", "-nostartfiles", "-Wl,--gc-sections,-u,calls,-e,calls,--unresolved-symbols=ignore-all"]
    run("arm-none-eabi-gcc", *FLAGS, *flags, *link, *objects, "-o", program)
    return flash_of(program) - POINTER_BYTES * len(names)


def largest_frame(target: Path) -> int:
    frames = re.findall(r"\t(\d+)\t", target.with_suffix(".su").read_text())
    return max(map(int, frames), default=0)


def modules(folder: Path, *flags: str) -> list[dict[str, int | str]]:
    rows: list[dict[str, int | str]] = []
    for source in sorted((AGENT / "src").glob("*.c")):
        target = compile_to(folder, source, *flags)
        counted = source.stem not in NOT_THE_AGENT
        rows.append(
            {"module": source.stem, "flash": flash_of(target), "frame": largest_frame(target), "counted": int(counted)}
        )
    return rows


def counted_flash(rows: list[dict[str, int | str]]) -> int:
    return sum(int(row["flash"]) for row in rows if row["counted"])


def memory(folder: Path, *flags: str) -> dict[str, int]:
    """Bytes of RAM by part, read from the sizes of arrays that were compiled to be as large."""
    probe = folder / "probe.c"
    lines = [f"char probe_{number}[sizeof({part})];" for number, part in enumerate(PARTS.values())]
    probe.write_text('#include "fleet_agent.h"\n' + "\n".join(lines) + "\n")
    symbols = run("arm-none-eabi-nm", "-S", "-t", "d", compile_to(folder, probe, *flags))
    sizes = {int(number): int(size) for size, number in re.findall(r" (\d+) \w probe_(\d+)", symbols)}
    return {name: sizes[number] for number, name in enumerate(PARTS)}


def rest_of(ram: dict[str, int]) -> int:
    return ram["all"] - sum(ram[name] for name in OUTSIDE_THE_BAR)


def verdict(name: str, got: int, bar: int) -> str:
    return f"{name}: {got} B, bar {bar} B: {'holds' if got <= bar else f'{got - bar} B too many'}"


def main() -> int:
    if shutil.which("arm-none-eabi-gcc") is None:
        print("arm-none-eabi-gcc is not there: apt-get install gcc-arm-none-eabi", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        rows = modules(Path(name))
        linked = {"linked": linked_flash(Path(name)), "linked with -flto": linked_flash(Path(name), "-flto")}
        with_firmware = counted_flash(modules(Path(name), "-DFLEET_WITH_FIRMWARE=1"))
        least = {
            "flash": counted_flash(modules(Path(name), *LEAST)),
            "flash, linked with -flto": linked_flash(Path(name), *LEAST, "-flto"),
        }
        least["RAM"] = rest_of(memory(Path(name), *LEAST))
        ram = memory(Path(name))
    print("| module | flash, B | largest frame, B |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {row['module']}{'' if row['counted'] else ' (not the agent)'} | {row['flash']} | {row['frame']} |")
    print("\n| RAM | B |\n| --- | --- |")
    for part, size in ram.items():
        print(f"| {part} | {size} |")
    flash = counted_flash(rows)
    decoder = next(int(row["flash"]) for row in rows if row["module"] == "delta")
    print("\n" + verdict("agent flash, file by file", flash, FLASH_BAR))
    for way, size in linked.items():
        print(verdict(f"agent flash, {way}", size, FLASH_BAR))
    print(f"agent flash with the component firmware (FLEET_WITH_FIRMWARE=1): {with_firmware} B")
    print(f"without every feature that can be left out ({' '.join(LEAST)}): {least}")
    print(verdict("decoder flash", decoder, DECODER_BAR))
    print(verdict("RAM besides decoder and receive buffers", rest_of(ram), RAM_BAR))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    results = {
        "modules": rows,
        "ram": ram,
        "flash": flash,
        **linked,
        "flash_with_firmware": with_firmware,
        "least": least,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
