"""Signed, delta-packed updates: bytes in, bytes out. See ota/README.md and ota/SPEC.md."""
