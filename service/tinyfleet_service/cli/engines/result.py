"""What an engine returns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class RunResult:
    """Outputs by name, (N, ...) int8 channels last, as the device made them; what an engine cannot measure is None."""

    outputs: dict[str, npt.NDArray[Any]]
    arena_bytes: int
    state_bytes: int
    instructions: int | None = None
    """Of one inference, the first."""
    stack_bytes: int | None = None
    """High-water of one inference, the runtime's own frames."""
    runtime_flash_bytes: int | None = None
    """Runtime, start-up code and libc as linked."""
    layer_instructions: tuple[int, ...] | None = None
    """Of each op of one inference, in steps of a counter tick."""
    start_instructions: int | None = None
    """Of the first inference beyond the second: what starting up takes after `fleet_model_open`."""
    open_instructions: int | None = None
    """Of `fleet_model_open`, which checks the image's structure."""
    layer_crcs: npt.NDArray[np.uint32] | None = None
    """(N, ops) CRC-32 of what each op wrote; of a model with state the first inference alone."""
    kernel_calls: npt.NDArray[np.uint32] | None = None
    """(calls, 2): which library ran a weighted op (1 CMSIS-NN, 2 ours) and its instructions, over every run of the
    image; only from firmware built with FLEET_KERNEL_CALLS."""
