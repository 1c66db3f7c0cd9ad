"""fleet_config_small.h: the same updates with a third of the default RAM."""

from agent.agent.rig import Device, holds, installed, release
from tinyfleet_ota.protocol import SlotState

SMALL = ('FLEET_CONFIG_FILE="fleet_config_small.h"',)
V1, V2 = release(0, 1), release(1, 2)


def test_the_small_knobs_save_ram() -> None:
    assert Device(knobs=SMALL).lib.rig_agent_bytes() < 0.7 * Device().lib.rig_agent_bytes()


def test_install_shadow_delta_labels_and_telemetry_fit() -> None:
    device, service = installed(V1, Device(knobs=SMALL))
    service.assign(V2, SlotState.SHADOW, base=V1)
    assert device.run_until(lambda d: any(d.slot(s).state == SlotState.SHADOW for s in (0, 1)))
    for _ in range(20):
        status, top, number = device.infer()
        assert (status, device.label(number, top)) == (0, 0)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    device.run(61_000)
    assert set(device.telemetry()) == {V1.id, V2.id}
    assert device.telemetry()[V2.id]["shadow_pairs"][0] == 20
    assert device.state()["components"][0]["slots"][device.info.active]["state"] == SlotState.CONFIRMED
