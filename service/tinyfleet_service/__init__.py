"""The service: registry, builds, devices, rollouts, telemetry, HTTP API, dashboard and command line."""
