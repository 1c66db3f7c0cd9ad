"""Vectorised numpy forms of the operators, over a batch (N, ...)."""
