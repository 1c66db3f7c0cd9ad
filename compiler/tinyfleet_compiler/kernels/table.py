"""Every operator's numpy kernel, as `simulate` calls them: (image, record, arenas (N, bytes)) -> (N, elements)."""

from collections.abc import Callable

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels import float_elements, float_rows, float_selected, float_windows, int8
from tinyfleet_compiler.kernels.finish import Array, Int8
from tinyfleet_compiler.operators import OpCode

KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], Array]] = {
    **int8.KERNELS,
    **float_windows.KERNELS,
    **float_elements.KERNELS,
    **float_rows.KERNELS,
    **float_selected.KERNELS,
}
