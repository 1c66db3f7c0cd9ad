"""A board whose firmware is a component: the agent on POSIX ports, and MCUboot's part played on two slot files."""

import subprocess
from functools import cache
from pathlib import Path

from agent import cbuild
from agent.agent.firmware_rig import SLOT_BYTES, firmware_image, imgtool, signing_key

ERASE_BYTES, FIELD_BYTES = 2048, 8
MAGIC = bytes.fromhex("77c295f360d2ef7f3552500f2cb67980")
MAGIC_AT = SLOT_BYTES - len(MAGIC)
IMAGE_OK, COPY_DONE = MAGIC_AT - FIELD_BYTES, MAGIC_AT - 2 * FIELD_BYTES
BODY_BYTES = SLOT_BYTES - ERASE_BYTES
"""The last block holds the trailer."""
RESET_ASKED = 3


@cache
def program() -> Path:
    """firmware_device, without sanitizers: the agent's sources have them in other tests."""
    port, source = cbuild.DEVICE_AGENT / "ports" / "posix", cbuild.DEVICE_AGENT / "src"
    sources = [path for folder in (port, source) for path in sorted(folder.glob("*.c"))]
    return cbuild.executable(
        "firmware_device",
        [Path(__file__).with_name("firmware_device.c"), *sources, *cbuild.runtime_sources()],
        include=[port, source, cbuild.RUNTIME],
        flags=["-DFLEET_WITH_FIRMWARE=1"],
        libraries=["-lssl", "-lcrypto", "-lm"],
        sanitize="",
    )


class Slot:
    """One of MCUboot's slots in a file: an image, and in its last block the trailer (docs/design.md of MCUboot)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b"\xff" * SLOT_BYTES

    def write(self, body: bytes, *, magic: bool = False, image_ok: bool = False, copy_done: bool = False) -> None:
        trailer = bytearray(b"\xff" * ERASE_BYTES)
        for at, is_set in ((IMAGE_OK, image_ok), (COPY_DONE, copy_done)):
            trailer[at - BODY_BYTES] = 1 if is_set else 0xFF
        if magic:
            trailer[MAGIC_AT - BODY_BYTES :] = MAGIC
        self.path.write_bytes(body.ljust(BODY_BYTES, b"\xff")[:BODY_BYTES] + trailer)

    @property
    def body(self) -> bytes:
        return self.data[:BODY_BYTES]

    def holds(self, image: bytes) -> bool:
        return self.body.startswith(image)

    @property
    def pending(self) -> bool:
        return self.data[MAGIC_AT:] == MAGIC and not self.image_ok

    @property
    def image_ok(self) -> bool:
        return self.data[IMAGE_OK] == 1

    @property
    def on_trial(self) -> bool:
        return self.pending and self.data[COPY_DONE] == 1

    def is_valid(self) -> bool:
        """What imgtool says of the bytes in the slot, signature included."""
        copy = self.path.with_suffix(".image")
        copy.write_bytes(self.body)
        try:
            imgtool("verify", "-k", str(signing_key()), str(copy))
        except subprocess.CalledProcessError:
            return False
        return True


class Board:
    """Flash files, the bootloader that has its turn at every start, and the agent's process."""

    def __init__(self, folder: Path, port: int, device_id: str) -> None:
        self.folder, self.arguments = folder, [str(folder), str(port), device_id]
        self.primary, self.secondary = Slot(folder / "primary.bin"), Slot(folder / "secondary.bin")
        self.primary.write(firmware_image(0))
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """A reset; what the bootloader did: none, test, revert or refused."""
        done = self._boot()
        command = [str(program()), *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=cbuild.clean_env())
        return done

    def _boot(self) -> str:
        first, second = self.primary, self.secondary
        if second.pending:
            if not second.is_valid():
                second.write(second.body)
                return "refused"
            self._swap(image_ok=False)
            return "test"
        if first.on_trial:
            self._swap(image_ok=True)
            return "revert"
        return "none"

    def _swap(self, *, image_ok: bool) -> None:
        before, after = self.primary.body, self.secondary.body
        self.primary.write(after, magic=True, copy_done=True, image_ok=image_ok)
        self.secondary.write(before)

    def wait_for(self, *texts: str) -> None:
        """Until the process has said all of them, in any order."""
        assert self.process is not None
        assert self.process.stdout is not None
        missing = set(texts)
        while missing:
            line = self.process.stdout.readline()
            assert line, f"it ended without {missing}"
            missing.discard(line.strip())

    def wait_for_reset(self) -> None:
        assert self.process is not None
        assert self.process.wait(60) == RESET_ASKED
        self.close()

    def stop(self) -> None:
        """Power off."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.close()

    def close(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    def tell_self_test(self, result: int | None) -> None:
        """What the self-test says from now on; None: it passes."""
        path = self.folder / "self-test"
        if result is None:
            path.unlink(missing_ok=True)
        else:
            aside = path.with_suffix(".new")
            aside.write_text(str(result))
            aside.replace(path)
