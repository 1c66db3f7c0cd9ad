"""The operations dashboard: one page rendered by Jinja2, kept live by server-sent events and htmx, charts by uPlot."""

from tinyfleet_service.dashboard.pages import make_router, static_files

__all__ = ["make_router", "static_files"]
