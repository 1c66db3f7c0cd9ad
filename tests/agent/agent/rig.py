"""One device in memory: the real C agent on NOR flash that can lose power, a broker in Python, time that tests turn."""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import cffi
import numpy as np

from agent import cbuild, red_zones
from agent.agent.broker import Broker
from agent.runtime import small_model
from agent.runtime.images import golden_input
from tinyfleet_compiler.image import Golden
from tinyfleet_ota import (
    Assignment,
    AssignmentEntry,
    FileSigner,
    Root,
    make_assignment,
    make_delta,
    make_release,
    make_root,
    topics,
)
from tinyfleet_ota.protocol import Codec, EventKind, Reason, SlotState
from tinyfleet_ota.protocol_codec import decode_event, decode_state, decode_telemetry

HERE = cbuild.ROOT / "tests" / "agent" / "agent"
POSIX = cbuild.DEVICE_AGENT / "ports" / "posix"
SRC = cbuild.DEVICE_AGENT / "src"
SLOT_BYTES, ERASE_BYTES, UNIT_BYTES, CHUNK_BYTES = 4096, 512, 16, 256
DEVICE, DEVICE_CLASS = "m4-7", "cortex-m4"
NO_SLOT = 0xFF
STOPS, OVERRUN, STRIDE = 1, 2, 3
"""Faults of a kernel; see rig_fault.h."""
RESET = 1
PROFILES = {"nor": 0, "ecc": 1}
PATTERNS = 8
CUTS = {"nothing": 0, "prefix": 1, "suffix": 2, "after": 3, "metastable": 4} | {
    f"pattern{i}": 5 + i for i in range(PATTERNS)
}

_CDEF = """
typedef struct rig_flash rig_flash_t;
typedef struct rig_t rig_t;
typedef struct powercut_world_t powercut_world_t;
typedef struct { uint64_t operations, cuts, second, boots, dropped, lost; uint32_t lost_operation; int lost_variant;
    uint32_t lost_second; int lost_second_variant; char why[96]; } powercut_result_t;
typedef struct { uint8_t state, reason, attempts, image[16]; uint32_t image_bytes, written_bytes, release_counter; }
    fleet_slot_info_t;
typedef struct { bool connected; uint8_t answering, active, fallback; uint32_t floor; fleet_slot_info_t slots[2];
    uint64_t sequence, director_epoch; uint32_t root, boot; uint8_t last_reason;
    uint64_t received_bytes; } fleet_agent_info_t;
"""
_API = """
uint8_t *rig_flash_data(rig_flash_t *flash);
uint8_t *rig_flash_units(rig_flash_t *flash);
uint64_t rig_flash_operations(rig_flash_t *flash);
uint32_t rig_flash_violations(rig_flash_t *flash);
bool rig_flash_dead(rig_flash_t *flash);
void rig_flash_cut(rig_flash_t *flash, uint64_t at, int variant);
void rig_flash_fail_from(rig_flash_t *flash, uint64_t at);
void rig_flash_busy_polls(rig_flash_t *flash, int polls);
rig_flash_t *rig_flash_new(int profile, uint32_t size, uint32_t erase_bytes, uint32_t program_bytes);
void rig_flash_free(rig_flash_t *flash);
void rig_flash_power_on(rig_flash_t *flash);
rig_t *rig_new(rig_flash_t *flash);
void rig_free(rig_t *rig);
void rig_key(rig_t *rig, const char *path);
void rig_without_decryption(rig_t *rig);
void rig_without_random(rig_t *rig);
void rig_transport(rig_t *rig, int (*connect)(void *), int32_t (*send)(void *, const uint8_t *, uint32_t),
    int32_t (*recv)(void *, uint8_t *, uint32_t), void (*close)(void *));
void rig_clock(rig_t *rig, uint32_t step_us, uint64_t wall_s);
void rig_state(rig_t *rig, uint8_t *state, uint32_t state_bytes);
int rig_reset_stream(rig_t *rig);
int rig_boot(rig_t *rig, const char *device, const char *device_class, const uint8_t *root, uint32_t root_bytes,
    uint8_t *arena, uint32_t arena_bytes, uint32_t slot_bytes, uint32_t report_interval_s);
uint64_t rig_step(rig_t *rig, uint64_t now_ms);
int rig_infer(rig_t *rig, uint8_t component, const void *data, uint32_t bytes, int is_float, uint8_t *output,
    uint32_t *top, uint32_t *id);
void rig_components(rig_t *rig, uint8_t components);
void rig_output_room(rig_t *rig, uint32_t bytes);
uint32_t rig_answers(const rig_t *rig, uint32_t *top);
void rig_fault(rig_t *rig, int kind, const uint8_t *image);
int rig_label(rig_t *rig, uint32_t id, uint32_t label);
int rig_factory_reset(rig_t *rig);
int rig_shutdown(rig_t *rig, uint64_t now_ms);
void rig_info(const rig_t *rig, fleet_agent_info_t *info);
uint32_t rig_slot_offset(const rig_t *rig, uint8_t slot);
int rig_boot_select(const rig_t *rig, uint32_t slot_bytes, uint8_t *slot);
void rig_firmware(rig_t *rig, uint32_t primary, uint32_t secondary, uint32_t slot_bytes);
void rig_self_test(rig_t *rig, int answer);
uint32_t rig_resets(const rig_t *rig);
void rig_component_info(const rig_t *rig, uint8_t component, fleet_agent_info_t *info);
int rig_mcuboot(rig_flash_t *flash, uint32_t primary, uint32_t secondary, uint32_t bytes);
uint32_t rig_agent_bytes(void);
powercut_world_t *powercut_world_new(rig_flash_t *flash);
void powercut_world_free(powercut_world_t *world);
void powercut_retain(powercut_world_t *world, const char *topic, const uint8_t *payload, uint32_t bytes);
void powercut_start(powercut_world_t *world, const uint8_t *root, uint32_t root_bytes, uint32_t slot_bytes,
    const uint8_t *input, uint32_t input_bytes);
bool powercut_allow(powercut_world_t *world, const uint8_t id[16]);
void powercut_goal(powercut_world_t *world, const uint8_t id[16], const uint8_t *image,
    uint32_t image_bytes, uint32_t root);
void powercut_firmware(powercut_world_t *world, uint32_t primary, uint32_t secondary, uint32_t slot_bytes);
void powercut_otherwise(powercut_world_t *world, const uint8_t rejected[16], const uint8_t keep[16]);
bool powercut_sweep(const powercut_world_t *world, uint32_t first, uint32_t stride, uint32_t seconds, uint64_t seed,
    powercut_result_t *result);
"""


@cache
def load(fast: bool = False, knobs: tuple[str, ...] = ()) -> tuple[cffi.FFI, Any]:
    """The agent with its rig as a library; `fast` without sanitizers, for benchmarks; `knobs` of fleet_config.h."""
    ffi = red_zones.make_ffi()
    ffi.cdef(_CDEF)
    ffi.cdef(_API)
    sources = [
        *sorted(SRC.glob("*.c")),
        *(path for path in cbuild.runtime_sources() if path.name != "kernel_table.c"),
        POSIX / "crypto.c",
        POSIX / "file.c",
        *(
            HERE / f"{name}.c"
            for name in ("agent_rig", "rig_flash", "rig_broker", "rig_mcuboot", "rig_fault", "powercut_rig")
        ),
    ]
    flags = (
        "-DFLEET_PROGRESS_BYTES=512",
        "-DFLEET_JOURNAL_BYTES=1024",
        "-DFLEET_CHUNK_TIMEOUT_MS=1000",
        "-DFLEET_WITH_FIRMWARE=1",
    )
    flags += (*(("-O2",) if fast else ()), *(f"-D{knob}" for knob in knobs))
    build = cbuild.plain_library if fast else cbuild.shared_library
    library = build(
        "agent_rig", sources, include=[SRC, POSIX, HERE, cbuild.RUNTIME], flags=flags, libraries=["-lcrypto"]
    )
    return ffi, red_zones.load(ffi, library)


# ---- images and messages ----


@cache
def image(seed: int = 0, *, golden_ok: bool = True) -> bytes:
    """A whole model; another seed changes some of its weights, as a fine-tune would."""
    blank = _builder(seed, Golden(small_model.SEEDS, 0)).build()
    if not golden_ok:
        return blank
    return _builder(seed, small_model.golden_of(blank)).build()


def _builder(seed: int, golden: Golden) -> Any:
    builder = small_model._builder(golden)
    rng = np.random.default_rng(seed)
    for op in builder.ops if seed else []:
        if op.weights is not None:
            change = rng.integers(-9, 10, op.weights.shape) * (rng.random(op.weights.shape) < 0.3)
            op.weights[...] = np.clip(op.weights + change, -127, 127)
    return builder


ROOT_KEYS = [FileSigner.from_seed(bytes([value]) * 32) for value in (1, 2, 3)]
RELEASE_KEY = FileSigner.from_seed(b"\x10" * 32)
DIRECTOR_KEY = FileSigner.from_seed(b"\x20" * 32)
OTHER_KEY = FileSigner.from_seed(b"\x30" * 32)


def root_one() -> Root:
    keys = tuple(sorted(key.public_key for key in ROOT_KEYS[:2]))
    return Root(1, 1, keys, (RELEASE_KEY.public_key,), (DIRECTOR_KEY.public_key,), 1)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class Release:
    """An image, signed."""

    image: bytes
    envelope: bytes

    @property
    def digest(self) -> bytes:
        return sha256(self.image)

    @property
    def id(self) -> bytes:
        return self.digest[:16]


def release(
    seed: int,
    counter: int,
    *,
    floor: int = 0,
    signer: FileSigner = RELEASE_KEY,
    data: bytes | None = None,
    device_class: str = DEVICE_CLASS,
    abi: int = 1,
    component: str = "model/0",
) -> Release:
    data = image(seed) if data is None else data
    envelope = make_release(
        data,
        device_class=device_class,
        abi=abi,
        release_counter=counter,
        security_floor=floor,
        component=component,
        version=f"v{counter}",
        signer=signer,
    )
    return Release(data, envelope)


@dataclass
class Service:
    """The far side: publishes releases, blobs and assignments into the broker."""

    broker: Broker
    sequence: int = 0
    epoch: int = 1
    signer: FileSigner = DIRECTOR_KEY

    def entry(
        self,
        item: Release,
        until: SlotState = SlotState.CONFIRMED,
        base: Release | None = None,
        packed: bool = False,
        component: str = "model/0",
        **terms: Any,
    ) -> AssignmentEntry:
        raw = base is None and not packed
        blob = item.image if raw else make_delta(base.image if base else b"", item.image, spacing=512)
        self.put_blob(blob)
        self.broker.retained[topics.manifest(sha256(item.envelope)[:16])] = item.envelope
        return AssignmentEntry(
            component,
            sha256(item.envelope),
            until,
            sha256(blob)[:16],
            len(blob),
            CHUNK_BYTES,
            Codec.RAW if raw else Codec.DELTA,
            base_digest=base.digest if base else None,
            **terms,
        )

    def put_blob(self, blob: bytes) -> None:
        for index in range(0, len(blob), CHUNK_BYTES):
            topic = topics.chunk(sha256(blob)[:16], CHUNK_BYTES, index // CHUNK_BYTES)
            self.broker.retained[topic] = blob[index : index + CHUNK_BYTES]

    def assign(
        self, item: Release, until: SlotState = SlotState.CONFIRMED, base: Release | None = None, **terms: Any
    ) -> int:
        self.send(self.entry(item, until, base, **terms))
        return self.sequence

    def send(self, *entries: AssignmentEntry, nonce: bytes | None = None) -> None:
        self.sequence += 1
        message = Assignment(DEVICE, self.epoch, self.sequence, nonce, entries)
        self.broker.publish(topics.desired(DEVICE), make_assignment(message, self.signer))


# ---- the device ----


@dataclass
class Slot:
    state: SlotState
    reason: Reason
    attempts: int
    image: bytes
    release_counter: int


@dataclass
class Device:
    """A device that can be booted, stepped and have its power cut; flash stays."""

    broker: Broker = field(default_factory=Broker)
    now_ms: int = 1000
    root: bytes = b""
    arena_bytes: int = 1024
    arena_shift: int = 0
    unit_bytes: int = UNIT_BYTES
    erase_bytes: int = ERASE_BYTES
    flash_bytes_total: int = 2 * 8192 + 2 * SLOT_BYTES
    profile: str = "nor"
    fast: bool = False
    key_path: str = ""
    decrypts: bool = True
    state_bytes: int = 0
    knobs: tuple[str, ...] = ()
    components: int = 1
    report_interval_s: int = 60
    device_id: str = DEVICE

    def __post_init__(self) -> None:
        self.ffi, self.lib = load(self.fast, self.knobs)
        self.root = self.root or make_root(root_one(), ROOT_KEYS[:1])
        flash = self.lib.rig_flash_new(
            PROFILES[self.profile], self.flash_bytes_total, self.erase_bytes, self.unit_bytes
        )
        self.flash = self.ffi.gc(flash, self.lib.rig_flash_free)
        self._arena = self.ffi.new("uint8_t[]", self.arena_bytes + 32)
        self._state = self.ffi.new("uint8_t[]", 2 * self.state_bytes + 16)
        self._keep: list[Any] = []
        self.rig: Any = None

    def boot(self, cut: tuple[int, str] | None = None) -> int:
        """Power on: a fresh agent on the flash as it is; power fails again at `cut`. Answers its status."""
        ffi, lib = self.ffi, self.lib
        lib.rig_flash_power_on(self.flash)
        if cut is not None:
            lib.rig_flash_cut(self.flash, cut[0], CUTS[cut[1]])
        self.broker.close()
        self.rig = self.new_rig()
        lib.rig_components(self.rig, self.components)
        lib.rig_key(self.rig, self.key_path.encode())
        if not self.decrypts:
            lib.rig_without_decryption(self.rig)
        self._callbacks()
        address = int(ffi.cast("uintptr_t", self._arena))
        arena = ffi.cast("uint8_t *", (address + 15) // 16 * 16 + self.arena_shift)
        self._keep += [
            ffi.new("char[]", self.device_id.encode()),
            ffi.new("char[]", DEVICE_CLASS.encode()),
            ffi.new("uint8_t[]", self.root),
        ]
        device, device_class, root = self._keep[-3:]
        if self.state_bytes:
            lowest = int(ffi.cast("uintptr_t", self._state))
            lib.rig_state(self.rig, ffi.cast("uint8_t *", (lowest + 15) // 16 * 16), self.state_bytes)
        sizes = (self.arena_bytes, SLOT_BYTES, self.report_interval_s)
        return int(lib.rig_boot(self.rig, device, device_class, root, len(self.root), arena, *sizes))

    def new_rig(self) -> Any:
        return self.ffi.gc(self.lib.rig_new(self.flash), self.lib.rig_free)

    def _callbacks(self) -> None:
        ffi, broker = self.ffi, self.broker

        @ffi.callback("int(void *)")
        def connect(_: Any) -> int:
            return broker.connect()

        @ffi.callback("int32_t(void *, const uint8_t *, uint32_t)")
        def send(_: Any, data: Any, size: int) -> int:
            return broker.send(bytes(ffi.buffer(data, size)))

        @ffi.callback("int32_t(void *, uint8_t *, uint32_t)")
        def recv(_: Any, data: Any, room: int) -> int:
            given = broker.recv(room)
            if given is None:
                return -140
            ffi.memmove(data, given, len(given))
            return len(given)

        @ffi.callback("void(void *)")
        def close(_: Any) -> None:
            broker.close()

        self._keep = [connect, send, recv, close]
        self.lib.rig_transport(self.rig, connect, send, recv, close)

    def step(self) -> int:
        """One step; time goes on to when the agent wants to be called again."""
        due = int(self.lib.rig_step(self.rig, self.now_ms))
        wait = 1 if self.broker.pending else 1000  # a port wakes up when bytes are there
        self.now_ms = max(self.now_ms + 1, min(due, self.now_ms + wait))
        return due

    def run(self, ms: int) -> None:
        """Steps until `ms` have passed or the power is gone."""
        end = self.now_ms + ms
        while self.now_ms < end and not self.dead:
            self.step()

    def run_until(self, wanted: Any, ms: int = 60_000, infer: bool = False) -> bool:
        """Steps until `wanted(device)`; True when it came before `ms`."""
        end = self.now_ms + ms
        while not wanted(self):
            if self.now_ms >= end or self.dead:
                return False
            self.step()
            if infer:
                self.infer()
        return True

    def infer(self, x: np.ndarray | None = None, component: int = 0) -> tuple[int, int, int]:
        """(status, top class, id) for an input, int8 raw or float32. Status RESET: it never returned."""
        x = golden_input(5, int(np.prod(small_model.INPUT))) if x is None else x
        data = np.ascontiguousarray(x).tobytes()
        output, top, number = self.ffi.new("uint8_t[64]"), self.ffi.new("uint32_t *"), self.ffi.new("uint32_t *")
        kind = int(x.dtype == np.float32)
        status = self.lib.rig_infer(self.rig, component, data, len(data), kind, output, top, number)
        return int(status), int(top[0]), int(number[0])

    @property
    def answered(self) -> tuple[int, int]:
        """(how many answers the product was told since boot before a candidate ran, top class of the last)."""
        top = self.ffi.new("uint32_t *")
        return int(self.lib.rig_answers(self.rig, top)), int(top[0])

    def misbehave(self, fault: int, slot: int) -> None:
        """Until the next boot a kernel of the image in `slot` does: STOPS, OVERRUN or STRIDE, both behind its arena."""
        start = self.lib.rig_slot_offset(self.rig, slot)
        self.lib.rig_fault(self.rig, fault, self.lib.rig_flash_data(self.flash) + start)

    def label(self, number: int, label: int) -> int:
        return int(self.lib.rig_label(self.rig, number, label))

    @property
    def dead(self) -> bool:
        return bool(self.lib.rig_flash_dead(self.flash))

    @property
    def info(self) -> Any:
        info = self.ffi.new("fleet_agent_info_t *")
        self.lib.rig_info(self.rig, info)
        return info

    def slot(self, index: int) -> Slot:
        info = self.info  # a slot does not keep it
        slot = info.slots[index]
        return Slot(SlotState(slot.state), Reason(slot.reason), slot.attempts, bytes(slot.image), slot.release_counter)

    def boot_choice(self) -> tuple[int, int]:
        """(status, slot) that a bootloader gets from the flash as it is."""
        slot = self.ffi.new("uint8_t *")
        return int(self.lib.rig_boot_select(self.rig, SLOT_BYTES, slot)), int(slot[0])

    @property
    def answering(self) -> bytes | None:
        """Id of the image that answers."""
        index = self.info.answering
        return None if index == NO_SLOT else self.slot(index).image

    @property
    def confirmed(self) -> bytes | None:
        index = self.info.active
        return self.slot(index).image if index != NO_SLOT and self.slot(index).state == SlotState.CONFIRMED else None

    def events(self, kind: EventKind | None = None) -> list[dict[str, Any]]:
        found = [decode_event(payload) for payload in self.broker.of("/event")]
        return [event for event in found if kind is None or event["kind"] == kind]

    def state(self) -> dict[str, Any]:
        return decode_state(self.broker.of("/state")[-1])

    def telemetry(self) -> dict[bytes, dict[str, Any]]:
        """The newest report, by image id."""
        report = decode_telemetry(self.broker.of("/telemetry")[-1])
        return {counters["image"]: counters for counters in report["images"]}

    def flash_bytes(self, slot: int, size: int) -> bytes:
        start = self.lib.rig_slot_offset(self.rig, slot)
        return bytes(self.ffi.buffer(self.lib.rig_flash_data(self.flash) + start, size))

    def save(self) -> tuple[bytes, bytes]:
        """The flash as it is."""
        return bytes(self._memory()[0]), bytes(self._memory()[1])

    def restore(self, saved: tuple[bytes, bytes]) -> None:
        data, units = self._memory()
        data[:], units[:] = saved

    def _memory(self) -> tuple[Any, Any]:
        size = self.flash_bytes_total
        data = self.ffi.buffer(self.lib.rig_flash_data(self.flash), size)
        return data, self.ffi.buffer(self.lib.rig_flash_units(self.flash), size // self.unit_bytes)

    @property
    def operations(self) -> int:
        return int(self.lib.rig_flash_operations(self.flash))

    @property
    def violations(self) -> int:
        return int(self.lib.rig_flash_violations(self.flash))


def holds(device: Device, item: Release) -> bool:
    """The release is confirmed and answers."""
    return device.confirmed == item.id and device.answering == item.id


def installed(item: Release, device: Device | None = None) -> tuple[Device, Service]:
    """A device that confirmed `item`."""
    device = device or Device()
    service = Service(device.broker)
    assert device.boot() == 0
    service.assign(item)
    assert device.run_until(lambda d: holds(d, item), infer=True), (device.slot(0), device.slot(1), device.events())
    return device, service
