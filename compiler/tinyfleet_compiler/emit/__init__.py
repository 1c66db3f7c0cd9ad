"""Other forms of a compiled model."""
