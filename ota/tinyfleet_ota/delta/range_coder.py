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
COUNT_LIMIT = 46
RATES = tuple(round(65536 / (n + 1.6)) for n in range(COUNT_LIMIT + 1))
"""How far a probability moves after its nth bit: fast while it knows little, then steady. In 1/65536."""


class Coder(Protocol):
    """What symbol models need of a range encoder or decoder."""

    def bit(self, context: int, bit: int = 0) -> int:
        """Code one bit with the adaptive probability of `context`."""

    def direct(self, value: int, bits: int) -> int:
        """Code `bits` bits of `value`, each with probability one half, highest first."""

    def reset(self, first: int, end: int) -> None:
        """Forget what contexts `first` up to `end` have learned."""


class _Contexts:
    """Probability that the next bit is 0, and how many bits it has seen, per context."""

    def __init__(self, contexts: int) -> None:
        self.probability = [PROBABILITY_HALF] * contexts
        self.count = [0] * contexts

    def reset(self, first: int, end: int) -> None:
        self.probability[first:end] = [PROBABILITY_HALF] * (end - first)
        self.count[first:end] = [0] * (end - first)


class RangeEncoder(_Contexts):
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
        probability = self.probability[context]
        count = self.count[context]
        bound = (self._range >> 12) * (probability >> 4 | 1)
        if bit:
            self._low += bound
            self._range -= bound
            self.probability[context] = probability - (probability * RATES[count] >> 16)
        else:
            self._range = bound
            self.probability[context] = probability + ((65536 - probability) * RATES[count] >> 16)
        if count < COUNT_LIMIT:
            self.count[context] = count + 1
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
        """End the block: as many bytes as a decoder will have read."""
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


class RangeDecoder(_Contexts):
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
        probability = self.probability[context]
        count = self.count[context]
        bound = (self._range >> 12) * (probability >> 4 | 1)
        if self._code < bound:
            self._range = bound
            self.probability[context] = probability + ((65536 - probability) * RATES[count] >> 16)
            bit = 0
        else:
            self._code -= bound
            self._range -= bound
            self.probability[context] = probability - (probability * RATES[count] >> 16)
            bit = 1
        if count < COUNT_LIMIT:
            self.count[context] = count + 1
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
        if self.offset >= len(self._data):
            raise DeltaError("the patch is cut short: fetch it again", offset=self.offset)
        self.offset += 1
        return self._data[self.offset - 1]
