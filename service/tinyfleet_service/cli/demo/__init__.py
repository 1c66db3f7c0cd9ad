"""`fleetctl demo`: the product's story on real parts.

It starts a real `fleetctl serve` and real device processes, then does what an operator would do through the same
HTTP API; only its times and thresholds are short, and those are settings of the service.
"""
