"""The state machine of a component in Python: the rules at the top of slots.c once more, without flash, images or time.

One call is one thing that happens to a device; afterwards everything that follows by itself has happened too.
"""

from copy import deepcopy
from dataclasses import dataclass, field

from tinyfleet_ota.protocol import Reason, SlotState

ATTEMPTS_MAX = 3
CANDIDATE = (SlotState.STAGED, SlotState.SHADOW, SlotState.TESTING)
UNFINISHED = (SlotState.WRITING, SlotState.STAGED, SlotState.SHADOW)
RUNNING = (SlotState.TESTING, SlotState.CONFIRMED)


@dataclass(frozen=True)
class Item:
    """A release as the rules see it."""

    name: str
    counter: int
    floor: int = 0
    golden_ok: bool = True


@dataclass
class Slot:
    item: Item | None = None
    state: SlotState = SlotState.EMPTY
    reason: Reason = Reason.NONE
    sequence: int = 0
    until: SlotState = SlotState.EMPTY
    attempts: int = 0
    undo: bool = False
    intact: bool = False


@dataclass
class Model:
    """`active` and `fallback` are slot indices or None; `wanted` is the entry of the newest assignment."""

    slots: tuple[Slot, Slot] = field(default_factory=lambda: (Slot(), Slot()))
    active: int | None = None
    fallback: int | None = None
    floor: int = 0
    wanted: Item | None = None
    until: SlotState = SlotState.EMPTY
    minimum: int = 1
    sequence: int = 0
    tested: int = 0
    settled: bool = False

    # ---- what happens to a device

    def assign(self, item: Item, until: SlotState, minimum: int) -> None:
        self.sequence += 1
        self.wanted, self.until, self.minimum, self.settled = item, until, minimum, False
        self._settle()

    def infer(self) -> None:
        """Rule 5: an answer without fault counts for the one in TESTING."""
        if self.answering is not None and self.slots[self.answering].state == SlotState.TESTING:
            self.tested += 1
        self._settle()

    def time_out(self) -> None:
        """Rule 5: TESTING took longer than it may."""
        if self.active is not None and self.slots[self.active].state == SlotState.TESTING:
            self._revert(Reason.CONFIRM_TIMEOUT)
        self._settle()

    def reboot(self) -> None:
        """Rule 6: the attempt of a candidate counts before its code runs."""
        self._count_attempts()
        self.tested, self.settled = 0, False
        self._settle()

    @property
    def boot_choice(self) -> int | None:
        """The slot that a boot would choose now: what fleet_boot_select answers."""
        later = deepcopy(self)
        later._count_attempts()
        return later.answering

    def _count_attempts(self) -> None:
        for index, slot in enumerate(self.slots):
            if slot.state in CANDIDATE:
                slot.attempts += 1
                if slot.attempts > ATTEMPTS_MAX:
                    self._reject(index, Reason.ATTEMPTS_EXHAUSTED)

    @property
    def answering(self) -> int | None:
        """Rules 1 and 7."""
        return next((index for index in (self.active, self.fallback) if index is not None and self._may(index)), None)

    # ---- transitions

    def _may(self, index: int) -> bool:
        slot = self.slots[index]
        return slot.intact and slot.state in RUNNING and slot.item is not None and slot.item.counter >= self.floor

    def _set(self, index: int, state: SlotState, reason: Reason = Reason.NONE) -> None:
        self.slots[index].state, self.slots[index].reason = state, reason

    def _stamp(self, index: int) -> None:
        self.slots[index].sequence = self.sequence

    def _back(self, reason: Reason) -> None:
        assert self.active is not None
        self._set(self.active, SlotState.REJECTED, reason)
        self.slots[self.active].undo = False
        back = self.fallback
        item = self.slots[back].item if back is not None else None
        self.active = back if item is not None and item.counter >= self.floor else None
        self.fallback = None

    def _revert(self, reason: Reason) -> None:
        assert self.active is not None
        self._stamp(self.active)
        self._back(reason)

    def _reject(self, index: int, reason: Reason) -> None:
        if index == self.active and self.slots[index].state == SlotState.TESTING:
            self._back(reason)
        else:
            self._set(index, SlotState.REJECTED, reason)

    def _take_terms(self, index: int) -> None:
        self.slots[index].until = self.until
        self._stamp(index)

    def _test(self, index: int, *, undo: bool) -> None:
        confirmed = self.active is not None and self.slots[self.active].state == SlotState.CONFIRMED
        self.fallback, self.active = (self.active if confirmed else None), index
        slot = self.slots[index]
        slot.attempts, slot.undo, self.tested = 0, undo, 0
        self._set(index, SlotState.TESTING)

    def _confirm(self) -> None:
        """Rules 7 and 8."""
        assert self.active is not None
        slot = self.slots[self.active]
        assert slot.item is not None
        self._set(self.active, SlotState.CONFIRMED)
        self.floor = max(self.floor, slot.item.floor)
        if slot.undo and self.fallback is not None:
            self._set(self.fallback, SlotState.REJECTED, Reason.UNDONE)
            self._stamp(self.fallback)
            self.fallback = None
        slot.undo = False
        other = self.slots[self.fallback].item if self.fallback is not None else None
        if other is not None and other.counter < self.floor:
            self.fallback = None

    # ---- following an assignment

    def _target(self) -> int:
        if self.answering is not None:
            return 1 - self.answering
        free = (i for i, slot in enumerate(self.slots) if self.active != i and slot.state not in RUNNING)
        return next(free, 0 if self.active == 1 else 1)

    def _release(self, index: int) -> None:
        answering = self.answering
        if self.fallback == index:
            self.fallback = None
        if self.active == index:
            self.active, self.fallback = answering, None

    def _fetch(self, index: int) -> None:
        """Rules 2 and 3: the image comes into the slot, is read back, and passes its golden vectors or not."""
        item = self.wanted
        assert item is not None
        if item.counter < self.floor:
            self.settled = True
            return
        self._release(index)
        slot = self.slots[index]
        slot.item, slot.attempts, slot.undo, slot.intact, slot.until = item, 0, False, True, self.until
        self._stamp(index)
        self._set(index, SlotState.STAGED)

    def _drop_candidate(self, index: int) -> None:
        if self.slots[index].state in UNFINISHED:
            self._set(index, SlotState.REJECTED, Reason.SUPERSEDED)
            self._stamp(index)

    def _follow_undo(self, index: int) -> None:
        item = self.slots[index].item
        assert item is not None
        if item.counter < self.floor:
            self.settled = True
        elif self.active is not None and self.slots[self.active].state == SlotState.TESTING:
            self._revert(Reason.UNDONE)
        elif self.fallback == index and self.until == SlotState.CONFIRMED:
            self._test(index, undo=True)
            self._take_terms(index)
        else:
            self._fetch(index)

    def _follow_there(self, index: int) -> None:
        slot = self.slots[index]
        if slot.state in (SlotState.STAGED, SlotState.SHADOW):
            self._take_terms(index)
        elif slot.state == SlotState.CONFIRMED:
            self._follow_undo(index)
        elif slot.sequence == self.sequence:
            self.settled = True
        else:
            self._fetch(index)

    def _follow_new(self) -> None:
        testing = self.active is not None and self.slots[self.active].state == SlotState.TESTING
        if testing and self.fallback is not None:
            self._revert(Reason.SUPERSEDED)
        target = self._target()
        self._drop_candidate(target)
        self._fetch(target)

    def _follow(self) -> None:
        answering, other = self.answering, self._target()
        opposite = self.slots[1 - other]
        if answering is None and opposite.state in UNFINISHED and opposite.item == self.wanted:
            other = 1 - other
        if self.wanted is None or self.settled:
            return
        if answering is None:
            self._drop_candidate(1 - other)
        if answering is not None and self.slots[answering].item == self.wanted:
            self._drop_candidate(other)
            if self.slots[answering].state == SlotState.TESTING and self.until == SlotState.CONFIRMED:
                self._take_terms(answering)
        elif self.slots[other].item == self.wanted and self.slots[other].state != SlotState.EMPTY:
            self._follow_there(other)
        else:
            self._follow_new()

    def _advance(self) -> None:
        """Rules 3, 4 and 5."""
        if self.active is not None and self.slots[self.active].state == SlotState.TESTING:
            if self.tested >= self.minimum:
                self._confirm()
            return
        for index, slot in enumerate(self.slots):
            if slot.state not in (SlotState.STAGED, SlotState.SHADOW):
                continue
            if slot.item is not None and not slot.item.golden_ok:
                self._set(index, SlotState.REJECTED, Reason.GOLDEN_FAILED)
                self._stamp(index)
            elif slot.until == SlotState.CONFIRMED:
                self._test(index, undo=False)
            elif slot.state == SlotState.STAGED:
                slot.attempts = 0
                self._set(index, SlotState.SHADOW)
            return

    def _settle(self) -> None:
        before = None
        while before != repr(self):
            before = repr(self)
            self._follow()
            self._advance()
