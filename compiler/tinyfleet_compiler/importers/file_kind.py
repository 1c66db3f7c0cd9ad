"""Which format a model file has, told from its first bytes."""

IDENTIFIER = b"TFL3"


def is_tflite(data: bytes) -> bool:
    """Whether the first bytes of a file say TFLite."""
    return data[4:8] == IDENTIFIER
