"""Pruning of float graphs: whole channels and single weights, each with least-squares repair, under a budget."""
