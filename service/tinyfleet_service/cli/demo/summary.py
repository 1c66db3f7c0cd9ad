"""The demo's last page, and the same as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from tinyfleet_service.cli.output import make_table, percent
from tinyfleet_service.client import Client


@dataclass(frozen=True)
class RolloutSummary:
    """One rollout. Counts are integers, accuracies fractions.

    `downloads`: devices that downloaded; `bytes_full`: their image bytes, summed; `bytes_sent`: blob bytes received;
    `accuracy_device`: labelled inferences of that version on all devices that ran or shadowed it; `stage`: where it
    ended (shadow, canary or waves).
    """

    version: str
    outcome: str
    stage: str
    reason: str
    canary_devices: int
    bytes_full: int
    bytes_sent: int
    downloads: int
    accuracy_device: float | None
    accuracy_server: float | None


@dataclass(frozen=True)
class Summary:
    """The whole run."""

    devices: int
    rollouts: list[RolloutSummary]
    silent_devices: int
    recovered_devices: int
    seconds: int
    latency_us: dict[str, tuple[float | None, float | None]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; latencies are p50 and p95 by version, microseconds."""
        return asdict(self)


def summarise(client: Client, rollout_ids: list[int], recovered: int, seconds: float) -> Summary:
    """Read the summary from the service: nothing in it is the demo's own word but `recovered` and `seconds`."""
    views = [client.rollout(number) for number in rollout_ids]
    overview = client.overview()
    silent = {device for view in views for device in view["silent_devices"]}
    return Summary(
        devices=overview["devices"]["total"],
        rollouts=[_summarise_rollout(view) for view in views],
        silent_devices=len(silent),
        recovered_devices=recovered,
        seconds=round(seconds),
        latency_us={row["version"]: (row["latency_p50_us"], row["latency_p95_us"]) for row in overview["versions"]},
    )


def print_summary(screen: Console, summary: Summary) -> None:
    """The table a person reads at the end."""
    rows = [
        [
            row.version,
            row.outcome.replace("_", " "),
            row.stage,
            f"{row.bytes_sent:,} of {row.bytes_full:,}",
            percent(row.bytes_sent / row.bytes_full if row.bytes_full else None, 0),
            f"{row.bytes_sent // max(row.downloads, 1):,} B",
            percent(row.accuracy_device),
            percent(row.accuracy_server),
        ]
        for row in summary.rollouts
    ]
    titles = ["version", "outcome", "ended in", "bytes sent / full", "", "a device", "accuracy: devices", "server"]
    screen.print(make_table(titles, rows))
    for row in summary.rollouts:
        screen.print(f"  {row.version} {row.outcome.replace('_', ' ')}: {row.reason}")
    known = {name: quantiles for name, quantiles in summary.latency_us.items() if all(quantiles)}
    latencies = ", ".join(f"{name} {p50:.0f} / {p95:.0f} µs" for name, (p50, p95) in known.items())
    screen.print(f"  latency on the devices, p50 / p95: {latencies}")
    screen.print(
        f"  {summary.devices} devices, {summary.silent_devices} silent, {summary.recovered_devices} back after a power "
        f"cut, {summary.seconds} s"
    )


def _summarise_rollout(view: dict[str, Any]) -> RolloutSummary:
    return RolloutSummary(
        version=view["version"],
        outcome=view["outcome"] or view["state"],
        stage=view["ended_stage"],
        reason=view["reason"],
        canary_devices=view["canary_devices"],
        bytes_full=view["bytes_full"],
        bytes_sent=view["bytes_sent"],
        downloads=view["downloads"],
        accuracy_device=view["accuracy_device"],
        accuracy_server=view["accuracy_server"],
    )
