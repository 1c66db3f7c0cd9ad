"""The component `firmware` once more in Python: slot_model.py with MCUboot's two slots under it.

Rules are those of device_agent/src/firmware.h. A slot of the record is an image; `primary` and `secondary` are places.
Every method leaves the model where the device is after it ran, and reset as often as it asked to.
"""

from dataclasses import dataclass

from agent.agent.slot_model import CANDIDATE, Item, Model
from tinyfleet_ota.protocol import Reason, SlotState

PASSES, PENDING, FAILS = 0, 1, -1
"""What the firmware's self-test says."""


@dataclass
class FirmwareModel(Model):
    """`primary` None: the firmware of the factory, which no release names."""

    primary: Item | None = None
    secondary: Item | None = None
    pending: bool = False
    kept: bool = True
    self_test: int = PASSES

    def try_self_test(self, answer: int) -> None:
        """From now on the self-test says so."""
        self.self_test = answer
        self._settle()

    def time_out(self) -> None:
        """Rule 4: TESTING took longer than it may."""
        if self._testing:
            self._back_and_reset(Reason.CONFIRM_TIMEOUT)
        self._settle()

    def reboot(self) -> None:
        """A reset: MCUboot's turn, then the agent finds out what runs."""
        self._reset()
        self._settle()

    @property
    def _testing(self) -> bool:
        return self.active is not None and self.slots[self.active].state == SlotState.TESTING

    def _swap(self) -> None:
        self.primary, self.secondary, self.pending = self.secondary, self.primary, False

    def _reset(self) -> None:
        if self.pending:
            self._swap()
            self.kept = False
        elif not self.kept:
            self._swap()
            self.kept = True
        self.settled = False
        candidates = [index for index, slot in enumerate(self.slots) if slot.state in CANDIDATE]
        if self._testing:
            self._find_reverted()
        elif candidates and self.slots[candidates[0]].item == self.primary:
            self._test(candidates[0], undo=False)
        elif candidates:
            self._count_attempts()

    def _find_reverted(self) -> None:
        assert self.active is not None
        if self.slots[self.active].item != self.primary:
            self._revert(Reason.FIRMWARE_REVERTED)

    def _back_and_reset(self, reason: Reason) -> None:
        self._revert(reason)
        self._reset()

    def _fetch(self, index: int) -> None:
        """The image comes into the secondary slot, over what lay there; what waited for a swap waits no more."""
        before = self.slots[index].state
        super()._fetch(index)
        if self.slots[index].state != before or not self.settled:
            self.secondary, self.pending = self.wanted, False

    def _follow_undo(self, index: int) -> None:
        """Going back is staged as anything else: the image lies in the secondary slot and is read back."""
        item = self.slots[index].item
        assert item is not None
        if item.counter < self.floor:
            self.settled = True
        else:
            self._fetch(index)

    def _follow(self) -> None:
        if not self._testing:  # rule 5
            super()._follow()

    def _advance(self) -> None:
        """Rules 2 to 4."""
        if self._testing:
            self._advance_test()
            return
        for slot in self.slots:
            if slot.state == SlotState.STAGED and slot.until == SlotState.CONFIRMED:
                self.pending = True
                self._reset()
                return

    def _advance_test(self) -> None:
        if self.self_test == FAILS:
            self._back_and_reset(Reason.SELF_TEST_FAILED)
        elif self.self_test == PASSES:
            self.kept = True
            self._confirm()
