"""cffi whose memory is C's: AddressSanitizer sees a byte too far of whatever a test hands to the code under test.

    ffi = red_zones.make_ffi()
    ffi.cdef(...)
    lib = red_zones.load(ffi, path)

Python's allocator puts small objects beside each other, where nothing is out of bounds. `PYTHONMALLOC=malloc` would
part them, and makes all of a test's Python two to three times as slow.
"""

from functools import partial
from pathlib import Path
from typing import Any

import cffi

_c = cffi.FFI()
_c.cdef("void *malloc(size_t bytes); void free(void *memory);")
_libc = _c.dlopen(None)
_COPIES = {"char": "char[]", "void": "uint8_t[]", "uint8_t": "uint8_t[]", "int8_t": "int8_t[]"}
"""What bytes become for a pointer argument."""


def make_ffi() -> cffi.FFI:
    """`new` takes memory from malloc; an array of bytes is exactly as long, without the zero cffi adds."""
    ffi = cffi.FFI()
    ffi.new = partial(_new, ffi, ffi.new_allocator(_libc.malloc, _libc.free))
    return ffi


def load(ffi: cffi.FFI, path: Path) -> "Library":
    """The shared library at `path`."""
    return Library(ffi, path)


class Library:
    """Functions get a copy of each `bytes` argument in memory of its own; text keeps its ending zero."""

    def __init__(self, ffi: cffi.FFI, path: Path) -> None:
        self._ffi, self._names = ffi, ffi.dlopen(str(path))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._names, name)
        if callable(found):
            found = partial(self._call, found, [self._memory(kind) for kind in self._ffi.typeof(found).args])
        setattr(self, name, found)
        return found

    def _memory(self, kind: Any) -> str:
        """What `ffi.new` makes of bytes for an argument of this type; empty where it takes none."""
        return _COPIES.get(kind.item.cname, "") if kind.kind == "pointer" else ""

    def _call(self, function: Any, memory: list[str], *arguments: Any) -> Any:
        pairs = zip(arguments, memory, strict=True)
        return function(*(self._ffi.new(kind, a) if kind and isinstance(a, bytes) else a for a, kind in pairs))


def _new(ffi: cffi.FFI, allocate: Any, kind: str, first: Any = None) -> Any:
    if kind not in ("uint8_t[]", "int8_t[]") or not isinstance(first, bytes):
        return allocate(kind, first)
    memory = allocate(kind, len(first))
    ffi.buffer(memory)[:] = first
    return memory
