"""When a trial is saved between evaluations (a real notice: tests/faults)."""

import pytest

from trainables import moments


@pytest.fixture
def world(monkeypatch):
    class World:
        now, leaving = 0.0, set()

    monkeypatch.setattr(moments.time, "monotonic", lambda: World.now)
    monkeypatch.setattr(moments, "_leaving", lambda: World.leaving)
    return World


def test_every_so_often(world):
    due = moments.Moments(every_s=10)
    answers = []
    for now in range(0, 45, 4):
        world.now = float(now)
        answers.append(due())
    assert [4 * index for index, answer in enumerate(answers) if answer] == [12, 24, 36]


def test_once_a_notice(world):
    due = moments.Moments(every_s=1000)
    world.now, world.leaving = 3.0, {"a"}
    assert due()
    world.now = 6.0
    assert not due()
    world.now, world.leaving = 9.0, {"a", "b"}
    assert due()
    world.now, world.leaving = 12.0, set()
    assert not due()


def test_without_ray_nothing_leaves():
    assert moments._leaving() == set()
