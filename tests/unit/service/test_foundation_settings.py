"""Settings and the data directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyfleet_service.errors import SettingsError
from tinyfleet_service.settings import Settings, load_settings


def test_environment_wins_over_file_and_overrides_win_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.toml").write_text("tick_s = 2.5\nhttp_port = 1111\nlease_s = 3\n")
    monkeypatch.setenv("TINYFLEET_HTTP_PORT", "2222")
    monkeypatch.setenv("TINYFLEET_LEASE_S", "4")
    settings = load_settings(tmp_path, lease_s=5)
    assert (settings.tick_s, settings.http_port, settings.lease_s) == (2.5, 2222, 5)
    assert settings.data == tmp_path


def test_every_bad_value_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, http_port=70000, alpha=2, builder_workers=0)
    assert {problem.split(":")[0] for problem in caught.value.data["problems"]} == {
        "http_port",
        "alpha",
        "builder_workers",
    }


@pytest.mark.parametrize("days", [0, -1, float("inf"), float("nan"), 1e9, "soon"])
@pytest.mark.parametrize("name", ["snapshot_days", "event_days", "rollup_hours_days"])
def test_nothing_is_kept_for_no_time_or_for_longer_than_dates_reach(tmp_path: Path, name: str, days: object) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings(tmp_path, **{name: days})


@pytest.mark.parametrize("text", ["tick_s = ", "\x00", "tick = 3", "[tick_s]\nx=1"])
def test_bad_settings_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(SettingsError):
        load_settings(tmp_path)


def test_unwritable_data_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--data"):
        load_settings(tmp_path / "file" / "data").dirs.create()


def test_secret_folders_are_private(tmp_path: Path) -> None:
    dirs = load_settings(tmp_path / "d").dirs.create()
    assert dirs.keys.stat().st_mode & 0o77 == 0
    assert dirs.pki.stat().st_mode & 0o77 == 0


def test_every_setting_is_documented() -> None:
    readme = (Path(__file__).parents[3] / "service" / "README.md").read_text()
    missing = [name for name in Settings.model_fields if f"`TINYFLEET_{name.upper()}`" not in readme]
    assert missing == []
