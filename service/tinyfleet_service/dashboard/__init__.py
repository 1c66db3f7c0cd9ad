"""The operations dashboard: one live page, server-rendered (Jinja2), kept current by server-sent events (htmx), charts by uPlot."""

from tinyfleet_service.dashboard.pages import make_router, static_files

__all__ = ["make_router", "static_files"]
