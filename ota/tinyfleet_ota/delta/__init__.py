"""Delta codec: `make_delta`, `apply_delta`, `patch_info`, `choose_transfer`. SPEC section 6.

The way of the bytes: `pairing` finds which old bytes predict which new ones, `plan` and `scaling` pick operations,
`segments` and `models` turn them into adaptive bits, `range_coder` into bytes, `codec` frames blocks that decode on
their own.
"""

from tinyfleet_ota.delta.codec import SPACING_BYTES, apply_delta, make_delta, patch_info
from tinyfleet_ota.delta.transfer import Transfer, choose_transfer

__all__ = ["SPACING_BYTES", "Transfer", "apply_delta", "choose_transfer", "make_delta", "patch_info"]
