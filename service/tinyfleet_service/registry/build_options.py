"""Options of a version's builds: what `fleetctl compile` takes, as one JSON object that a push sends along."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyfleet_compiler import Budgets, CompileOptions, PruneOptions
from tinyfleet_service.errors import InvalidInputError, problem_texts

Share = float | Literal["auto"] | None
MOST_SEARCH_SECONDS = 600.0
MOST_FRONT_END = 16_384
"""Characters of a front-end file."""


class BuildOptions(BaseModel):
    """Sizes in bytes; the defaults are those of the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Literal["top1", "mse", "reconstruction", "auc", "agreement"] | None = None
    type: Literal["int8", "float32"] = "int8"
    optimize: Literal["balanced", "ram", "flash", "speed"] = "balanced"
    dims: dict[str, int] = Field(default_factory=dict, max_length=64)
    states: list[tuple[str, str]] = Field(default_factory=list, max_length=64)
    front_end: str = Field(default="", max_length=MOST_FRONT_END)
    prune_channels: Share = None
    prune_weights: Share = None
    accuracy_budget: float | None = Field(default=None, ge=0.0, le=100.0)
    search: bool = False
    flash_budget: int | None = Field(default=None, gt=0)
    arena_budget: int | None = Field(default=None, gt=0)
    search_seconds: float = Field(default=120.0, ge=1.0, le=MOST_SEARCH_SECONDS)

    def compile_options(self) -> CompileOptions:
        """For the compiler. Raises ValueError for options that contradict each other."""
        if not self.search and (self.flash_budget or self.arena_budget):
            raise ValueError("a byte budget without search")
        pruned = self.prune_channels is not None or self.prune_weights is not None
        if self.accuracy_budget is not None and not (self.search or pruned):
            raise ValueError("an accuracy budget without search or pruning")
        budgets = Budgets(self.flash_budget, self.arena_budget, self.accuracy_budget, self.search_seconds)
        return CompileOptions(
            type=self.type,
            optimize=self.optimize,
            dims=self.dims,
            states=tuple(self.states),
            front_end=self.front_end,
            prune=PruneOptions(self.prune_channels, self.prune_weights, self.accuracy_budget if pruned else None),
            search=budgets if self.search else None,
        )


def read_build_options(document: dict[str, Any]) -> BuildOptions:
    """From what a push sent or a version keeps. Raises InvalidInputError naming every key that is wrong."""
    try:
        options = BuildOptions.model_validate(document)
        options.compile_options()
    except ValidationError as error:
        problems = problem_texts(error.errors())
        raise InvalidInputError(
            "bad build options: " + "; ".join(problems),
            next="they are those of `fleetctl compile`, where alone a metric may be a Python file",
            problems=problems,
        ) from error
    except ValueError as error:
        raise InvalidInputError(f"bad build options: {error}", next="change or leave one of them out") from error
    return options
