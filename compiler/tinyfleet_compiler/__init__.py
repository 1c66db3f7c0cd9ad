"""Model file in, model image, C source and report out. See README.md in the folder above.

What a run needs is imported at once; what a check or a compile needs (importers, search, report) when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinyfleet_compiler.device_class import DeviceClass, device_class_names, device_class_text, load_device_class
from tinyfleet_compiler.errors import (
    CompilerError,
    DatasetError,
    DeviceClassError,
    ImageError,
    ModelError,
    Problem,
    VerifyError,
)
from tinyfleet_compiler.image import Image, Section, read_image
from tinyfleet_compiler.simulate import simulate

if TYPE_CHECKING:
    from tinyfleet_compiler.check import CheckReport, check_model
    from tinyfleet_compiler.compile import CompileResult, compile_model
    from tinyfleet_compiler.metrics import CustomMetric
    from tinyfleet_compiler.options import CompileOptions
    from tinyfleet_compiler.prune.prune_graph import PruneOptions
    from tinyfleet_compiler.quantize.budgets import Budgets

_LATER = {
    "Budgets": "quantize.budgets",
    "CheckReport": "check",
    "CompileOptions": "options",
    "CompileResult": "compile",
    "CustomMetric": "metrics",
    "PruneOptions": "prune.prune_graph",
    "check_model": "check",
    "compile_model": "compile",
}
"""Name -> the module that has it."""

__all__ = [
    "Budgets",
    "CheckReport",
    "CompileOptions",
    "CompileResult",
    "CompilerError",
    "CustomMetric",
    "DatasetError",
    "DeviceClass",
    "DeviceClassError",
    "Image",
    "ImageError",
    "ModelError",
    "Problem",
    "PruneOptions",
    "Section",
    "VerifyError",
    "check_model",
    "compile_model",
    "device_class_names",
    "device_class_text",
    "load_device_class",
    "read_image",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
