"""OpenTelemetry traces, when `otlp_endpoint` is set and the package's extra `traces` is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinyfleet_service.errors import SettingsError
from tinyfleet_service.settings import Settings

_providers: list[Any] = []  # none, or the one of this process


def configure_traces(process: str, settings: Settings) -> None:
    """Send spans to `otlp_endpoint` from now on. Raises SettingsError when the extra is not installed."""
    if not settings.otlp_endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(
            "otlp_endpoint is set, but OpenTelemetry is not installed", next="pip install 'tinyfleet[traces]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"tinyfleet-{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")))
    _providers[:] = [provider]


def end_traces() -> None:
    """Send what is left and trace no more; no effect where traces are off."""
    while _providers:
        _providers.pop().shutdown()


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[Any]:
    """A span around the block, or nothing at all where traces are off; yields the span or None."""
    if not _providers:
        yield None
        return
    with _providers[0].get_tracer("tinyfleet").start_as_current_span(name, attributes=attributes) as started:
        yield started
