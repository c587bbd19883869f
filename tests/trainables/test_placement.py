"""Placement groups of dead actors are freed, those of the living and of drivers stay."""

import time

import pytest
import ray
from ray.util.placement_group import placement_group

from trainables import placement


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Holder:
    def hold(self, cpus):
        self.group = placement_group([{"CPU": cpus}] * 2)
        if cpus == 1:
            ray.get(self.group.ready())


def test_only_what_the_dead_held_is_freed():
    ours = placement_group([{"CPU": 1}])
    ray.get(ours.ready())
    alive, dead, never_placed = (Holder.remote() for _ in range(3))
    ray.get([dead.hold.remote(1), never_placed.hold.remote(100), alive.hold.remote(50)])
    assert placement.remove_orphans() == 0
    ray.kill(dead)
    ray.kill(never_placed)
    deadline, removed = time.monotonic() + 30, 0
    while removed < 2 and time.monotonic() < deadline:
        removed += placement.remove_orphans()
        time.sleep(0.1)
    assert removed == 2
    table = ray.util.placement_group_table()
    assert table[ours.id.hex()]["state"] == "CREATED"
    assert sorted(group["state"] for group in table.values()) == ["CREATED", "PENDING", "REMOVED", "REMOVED"]
    while ray.available_resources()["CPU"] < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 3
