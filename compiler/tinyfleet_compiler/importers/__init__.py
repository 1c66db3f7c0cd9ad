"""Model files in, float graphs out."""

from tinyfleet_compiler.importers.onnx_graph import Imported, import_onnx

__all__ = ["Imported", "import_onnx"]
