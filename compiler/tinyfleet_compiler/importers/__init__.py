"""Model files in, graphs out: `import_model` tells ONNX and TFLite apart by their first bytes."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tinyfleet_compiler.importers.file_kind import is_tflite
from tinyfleet_compiler.importers.imported import Imported
from tinyfleet_compiler.importers.states import Pairs


def import_model(path: Path, dims: Mapping[str, int] | None = None, pairs: Pairs = ()) -> Imported:
    """Read a model file of either format; `dims` gives sizes of an ONNX file's symbolic dimensions by name, `pairs`
    (OUTPUT, INPUT) are its states (importers/states.py).

    Raises `ModelError` when it is no model at all.
    """
    head = b""
    # Where there is nothing to read, the readers say what is wrong with it.
    with suppress(OSError), path.open("rb") as file:
        head = file.read(8)
    # Each reader brings a library: only the one that is needed is loaded.
    if is_tflite(head) or path.suffix.lower() == ".tflite":
        from tinyfleet_compiler.importers.tflite_graph import import_tflite

        return import_tflite(path, pairs)
    from tinyfleet_compiler.importers.onnx_graph import import_onnx

    return import_onnx(path, dims, pairs)


__all__ = ["Imported", "import_model"]
