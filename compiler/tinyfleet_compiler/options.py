"""Options of a compile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tinyfleet_compiler.compile_graph import TYPES
from tinyfleet_compiler.prune.prune_graph import PruneOptions
from tinyfleet_compiler.quantize.budgets import Budgets
from tinyfleet_compiler.quantize.ranges import ESTIMATORS

OPTIMIZE = ("balanced", "ram", "flash", "speed")


@dataclass(frozen=True)
class CompileOptions:
    """What a user may choose; the defaults are right for most models."""

    type: str = "int8"
    """Element type of the device's tensors: int8, or float32 on classes with an FPU (no calibration, no base)."""
    estimator: str = "auto"
    """Range estimator of activations: min-max, percentile, mse, entropy (plain rounding), or auto: a search among all,
    with and without bias correction, that keeps what stays nearest to float on calibration samples held out."""
    golden_vectors: int = 4
    """Golden vectors in the image, 1 to 4."""
    labels: tuple[str, ...] = ()
    """Class names; () takes them from the model's metadata key `labels`."""
    base: bytes | None = None
    """Image to compile against: its scales are kept where ranges allow, so that a delta stays small."""
    base_rounding: bool = True
    """Whether weights may be rounded towards the base's too, as far as the improvement over the base is kept."""
    measure_delta: Callable[[bytes], int] | None = None
    """Bytes that would travel to a device that holds the base, for an image; None: the report has estimates only."""
    front_end: str = ""
    """Text of a front-end file (TOML): the image takes audio and computes the model's input from it."""
    prune: PruneOptions = field(default_factory=PruneOptions)
    """Channels and weights to prune before quantisation; nothing by default."""
    dims: Mapping[str, int] = field(default_factory=dict)
    """Sizes of an ONNX file's symbolic dimensions by name; the batch is 1."""
    states: tuple[tuple[str, str], ...] = ()
    """(output, input) of the model file: what the output holds the input finds at the next inference. The device keeps
    it, and neither is the caller's any more. Pairs in the model's metadata key `states` hold too."""
    optimize: str = "balanced"
    """What to save; the outputs stay the same bytes.

    balanced: the smallest arena that costs no instructions. ram: the smallest arena, with row cascades; rows are
    copied, none is computed twice, unless that is more than the class has: then in strips of columns (patches), which
    compute borders twice, as few as fit. flash: balanced, and the image holds one golden vector, every constant once
    and no scales (so it cannot be a base). speed: balanced, as no kernel is faster with more memory than it gets there.
    """
    search: Budgets | None = None
    """Search rounding, equalisation and per layer int16 activations or int4 weights, within these budgets."""

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ValueError(f"type '{self.type}' is unknown; use {', '.join(TYPES)}")
        if self.estimator not in ("auto", *ESTIMATORS):
            raise ValueError(f"estimator '{self.estimator}' is unknown; use auto, {', '.join(ESTIMATORS)}")
        if self.optimize not in OPTIMIZE:
            raise ValueError(f"optimize '{self.optimize}' is unknown; use {', '.join(OPTIMIZE)}")
        if not 1 <= self.golden_vectors <= 4:
            raise ValueError(f"golden_vectors is {self.golden_vectors}; use 1 to 4")
        if self.search is not None and self.estimator != "auto":
            raise ValueError("a search chooses scales itself: leave the estimator out, or the search")
        if self.search is not None and self.type == "float32":
            raise ValueError("a search chooses integer types: leave it out, or --type float32")
