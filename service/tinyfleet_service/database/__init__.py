"""Engine, sessions and tables of the control plane (SQLModel); telemetry's hot tables are raw SQL in `telemetry`."""
