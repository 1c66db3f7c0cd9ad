"""Devices that say nothing are drawn last: a silent canary could tell nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tinyfleet_service.rollouts.membership import Candidate, draw_members


@given(quiet=st.sets(st.integers(0, 59), max_size=30), salt=st.text(min_size=1, max_size=8))
def test_no_quiet_device_is_canary_while_another_of_its_stratum_could_be(quiet: set[int], salt: str) -> None:
    fleet = [Candidate(f"d{n}", "c", f"s{n % 3}", quiet=n in quiet) for n in range(60)]
    draw = draw_members(fleet, "5%", ["25%", "100%"], salt)
    assert {place.device_id for place in draw.places} == {candidate.device_id for candidate in fleet}
    by_stratum: dict[str, list[tuple[int, bool]]] = {}
    for place in draw.places:
        by_stratum.setdefault(place.stratum, []).append((place.wave, int(place.device_id[1:]) in quiet))
    for rows in by_stratum.values():
        latest_alive = max((wave for wave, is_quiet in rows if not is_quiet), default=0)
        assert all(wave >= latest_alive for wave, is_quiet in rows if is_quiet)
