"""Adaptive binary range coder: 32-bit range, carry into bytes already written, 16-bit probabilities. SPEC section 6.3.

Encoder and decoder have one interface, `bit(context, bit) -> bit` and `direct(value, bits) -> value`, so that the
symbol models are written once for both: the encoder codes what it is given, the decoder ignores it and returns what
it reads.
"""

from __future__ import annotations

from typing import Protocol

from tinyfleet_ota.errors import DeltaError

TOP = 1 << 24
MASK = (1 << 32) - 1
PROBABILITY_HALF = 1 << 15
SILENT_BYTES = 3
"""Zeros that a decoder reads behind the last byte of a patch: the end of the last block need not travel."""
COUNT_LIMIT = 46
RATES = tuple(65536 // (n + 2) for n in range(COUNT_LIMIT + 1))
"""How far a probability moves after its nth bit: fast while it knows little, then steady. In 1/65536."""


class Coder(Protocol):
    """What symbol models need of a range encoder or decoder."""

    def bit(self, context: int, bit: int = 0) -> int:
        """Code one bit with the adaptive probability of `context`."""

    def direct(self, value: int, bits: int) -> int:
        """Code `bits` bits of `value`, each with probability one half, highest first."""

    def reset(self, first: int, end: int) -> None:
        """Forget what contexts `first` up to `end` have learned."""


class Contexts:
    """Probability that the next bit is 0, and how many bits it has seen, per context: the same in both directions."""

    def __init__(self, contexts: int) -> None:
        self.probability = [PROBABILITY_HALF] * contexts
        self.count = [0] * contexts

    def learn(self, context: int, bit: int) -> None:
        """Move the probability of `context` towards `bit`."""
        probability, count = self.probability[context], self.count[context]
        share = RATES[count]
        moved = -(probability * share >> 16) if bit else (65536 - probability) * share >> 16
        self.probability[context] = probability + moved
        if count < COUNT_LIMIT:
            self.count[context] = count + 1

    def reset(self, first: int, end: int) -> None:
        """Forget what contexts `first` up to `end` have learned."""
        self.probability[first:end] = [PROBABILITY_HALF] * (end - first)
        self.count[first:end] = [0] * (end - first)


class RangeEncoder(Contexts):
    """Writes one block; `finish` gives its bytes."""

    def __init__(self, contexts: int) -> None:
        super().__init__(contexts)
        self._low = 0
        self._range = MASK
        self._cache = 0
        # Bytes of all ones behind the cache byte: a carry may still change them.
        self._pending = 0
        # The very first byte is always 0 and is dropped.
        self._first = True
        self._output = bytearray()

    def bit(self, context: int, bit: int = 0) -> int:
        """Code `bit`."""
        bound = (self._range >> 12) * (self.probability[context] >> 4 | 1)
        if bit:
            self._low += bound
            self._range -= bound
        else:
            self._range = bound
        self.learn(context, bit)
        while self._range < TOP:
            self._range = self._range << 8 & MASK
            self._shift()
        return bit

    def direct(self, value: int, bits: int) -> int:
        """Code the low `bits` bits of `value`."""
        for shift in range(bits - 1, -1, -1):
            self._range >>= 1
            if value >> shift & 1:
                self._low += self._range
            if self._range < TOP:
                self._range = self._range << 8 & MASK
                self._shift()
        return value

    def finish(self) -> bytes:
        """End the block: as many bytes as a decoder will have read, zeros at the end where the choice is ours."""
        self._low = self._low + TOP - 1 & ~(TOP - 1)
        for _ in range(5):
            self._shift()
        return bytes(self._output)

    def _shift(self) -> None:
        """Move the top byte of `low` out, unless a later carry could still change it."""
        if self._low < 0xFF000000 or self._low > MASK:
            carry = self._low >> 32
            if not self._first:
                self._output.append(self._cache + carry & 0xFF)
            self._first = False
            self._output.extend(bytes([0xFF + carry & 0xFF]) * self._pending)
            self._pending = 0
            self._cache = self._low >> 24 & 0xFF
        else:
            self._pending += 1
        self._low = self._low << 8 & MASK


def without_end(blocks: bytes) -> bytes:
    """Blocks without the zeros at their end that a decoder adds by itself."""
    silent = blocks[-SILENT_BYTES:]
    return blocks[: len(blocks) - len(silent) + len(silent.rstrip(b"\0"))]


class RangeDecoder(Contexts):
    """Reads one block of `data` from `offset`; `offset` is then where the next block starts."""

    def __init__(self, contexts: int, data: bytes, offset: int) -> None:
        super().__init__(contexts)
        self._data = data
        self.offset = offset
        self._range = MASK
        self._code = 0
        for _ in range(4):
            self._code = self._code << 8 | self._next()

    def bit(self, context: int, bit: int = 0) -> int:
        """The next bit; `bit` is ignored."""
        bound = (self._range >> 12) * (self.probability[context] >> 4 | 1)
        bit = int(self._code >= bound)
        if bit:
            self._code -= bound
            self._range -= bound
        else:
            self._range = bound
        self.learn(context, bit)
        while self._range < TOP:
            self._range = self._range << 8 & MASK
            self._code = (self._code << 8 | self._next()) & MASK
        return bit

    def direct(self, value: int, bits: int) -> int:
        """The next `bits` bits; `value` is ignored."""
        value = 0
        for _ in range(bits):
            self._range >>= 1
            one = self._code >= self._range
            if one:
                self._code -= self._range
            value = value << 1 | one
            if self._range < TOP:
                self._range = self._range << 8 & MASK
                self._code = (self._code << 8 | self._next()) & MASK
        return value

    def _next(self) -> int:
        at, self.offset = self.offset, self.offset + 1
        if at >= len(self._data) + SILENT_BYTES:
            raise DeltaError("the patch is cut short: fetch it again", offset=at)
        return self._data[at] if at < len(self._data) else 0
