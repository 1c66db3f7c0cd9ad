"""Error tree of the compiler; every error carries data and says what to do next.

CompilerError
├── ModelError            the model file: unreadable, hostile, or outside what we support (`problems` lists every node)
├── DatasetError          calibration or evaluation data that does not fit the model
├── DeviceClassError      a device class file with a wrong or missing key
├── ImageError            bytes that are not an image this version reads
└── VerifyError           our own invariant broken between two stages: a bug, report it
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that stands in the way: where it is, why, and what would help."""

    node: str
    operator: str
    reason: str
    help: str

    def to_json(self) -> dict[str, str]:
        """Plain data for reports and APIs."""
        return asdict(self)

    def __str__(self) -> str:
        where = f"{self.operator} '{self.node}'" if self.operator else self.node
        return f"{where}: {self.reason}; {self.help}" if where else self.reason


class CompilerError(Exception):
    """Root of the tree. `problems` holds every reason found in one pass, at least one."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems: tuple[Problem, ...] = tuple(problems) or (Problem("", "", message, "see the message"),)

    def __str__(self) -> str:
        own = self.message
        listed = [str(p) for p in self.problems if p.operator or p.node]
        return "\n  - ".join([own, *listed]) if listed else own


class ModelError(CompilerError):
    """The model file is unreadable, hostile or unsupported."""


class DatasetError(CompilerError):
    """Calibration or evaluation data does not fit the model."""


class DeviceClassError(CompilerError):
    """A device class file has a wrong, unknown or missing key."""


class ImageError(CompilerError):
    """The bytes are not an image this version reads."""


class VerifyError(CompilerError):
    """A stage handed on something its verifier refuses: a bug of the compiler."""
