"""Float graph + calibration data -> quantisation parameters and integer weights."""
