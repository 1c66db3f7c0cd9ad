"""Model file in, model image, C source and report out. See README.md in the folder above."""

from tinyfleet_compiler.compile import CheckReport, CompileResult, check_model, compile_model
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
from tinyfleet_compiler.metrics import CustomMetric
from tinyfleet_compiler.options import CompileOptions
from tinyfleet_compiler.prune.prune_graph import PruneOptions
from tinyfleet_compiler.quantize.budgets import Budgets
from tinyfleet_compiler.simulate import simulate

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
