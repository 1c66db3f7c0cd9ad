"""Engines that run a model image or apply a patch: `run_image`; `delta.delta_apply`.

Every engine gives the same bytes. `simulator` is the compiler's numpy engine; `host` is the C runtime on this machine;
`cortex-*` are the C runtime under QEMU, which also counts instructions and stack. The C programs are built on first use
from `device_agent/` (in the repository, or carried by the wheel) into the user cache: `~/.cache/tinyfleet`, or
`TINYFLEET_CACHE`. The way: `tensors` brings the input into device order, an engine runs it, `tensors` cuts the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from tinyfleet_compiler.errors import ImageError
from tinyfleet_compiler.image import Image, read_image
from tinyfleet_service.cli.engines import cortex_m, host, simulator
from tinyfleet_service.cli.engines.result import RunResult
from tinyfleet_service.cli.engines.tensors import device_inputs
from tinyfleet_service.errors import InvalidInputError

__all__ = ["ENGINES", "RunResult", "run_image"]


class _Engine(Protocol):
    def __call__(self, image: Image, inputs: npt.NDArray[Any], *, reset_state: bool = False) -> RunResult: ...


ENGINES: dict[str, _Engine] = {
    "simulator": simulator.run,
    "host": host.run,
    **{target.name: cortex_m.engine(target) for target in cortex_m.TARGETS},
}
"""Name -> function of the image and its inputs, (N, bytes of all inputs) int8 in device order."""


def run_image(
    image: bytes, x: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]], engine: str, *, reset_state: bool = False
) -> RunResult:
    """Run `image` on `engine`, one inference per sample: one stream, in order, for a model that keeps state, which
    begins at its initial one, before every sample with `reset_state`.

    `x` is (N, ...) in the model's own layout, or one such array per input name; int8 as it is, floats quantised with
    the input's parameters. Raises InvalidInputError (damaged image, wrong shape or type, unknown engine) and
    UnavailableError (a tool is missing: names the Debian packages).
    """
    run = _find(engine)
    try:
        parsed = read_image(image)
    except ImageError as error:
        raise InvalidInputError(f"the image cannot be read: {error}", next="compile or fetch it again") from error
    return run(parsed, device_inputs(parsed, x), reset_state=reset_state)


def _find(engine: str) -> _Engine:
    if engine in ENGINES:
        return ENGINES[engine]
    known = ", ".join(ENGINES)
    raise InvalidInputError(f"no engine is called {engine!r}", next=f"use one of {known}", engine=engine)
