"""How many trials fit, from what a cluster has (sessions themselves: test_tuner.py)."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables import cluster

CPU, GPU_1 = {"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("available", "wanted", "resources", "count"),
    [
        ({"CPU": 2.0}, {}, CPU, 2),
        ({"CPU": 8.0}, {"jobs": 3}, CPU, 3),
        ({"CPU": 16.0, "GPU": 4.0}, {}, GPU_1, 4),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpus": 0.0}, CPU, 16),
        ({"CPU": 64.0, "GPU": 4.0}, {"gpus": 0.25}, {"CPU": 1.0, "GPU": 0.25}, 16),
        ({"CPU": 64.0, "GPU": 1.0}, {"gpus": 0.1}, {"CPU": 1.0, "GPU": 0.1}, 10),
        ({"CPU": 2.0, "GPU": 4.0}, {"jobs": 8}, GPU_1, 2),
        ({"CPU": 3.0}, {"workers": 2}, {"CPU": 0.01}, 1),
        ({"CPU": 9.0}, {"workers": 2}, {"CPU": 0.01}, 4),
        ({"CPU": 16.0, "GPU": 4.0}, {"workers": 2}, {"CPU": 0.01}, 2),
        ({"CPU": 16.0, "GPU": 4.0}, {"workers": 2, "gpus": 0.0}, {"CPU": 0.01}, 7),
        # Nothing is there yet, and a head without CPUs never counts: what can be started does.
        ({}, {"largest": {"CPU": 32.0, "GPU": 4.0}}, GPU_1, 4),
        ({"CPU": 8.0}, {"largest": {"CPU": 32.0, "GPU": 4.0}, "jobs": 2}, GPU_1, 2),
    ],
)
def test_room(available, wanted, resources, count):
    room = cluster.Room(available, **{"workers": 1, "gpus": None, "jobs": None, **wanted})
    assert (room.resources, room.slots(available)) == (resources, count)


def test_room_follows_a_cluster_without_an_autoscaler():
    room = cluster.Room({"CPU": 4.0}, workers=1, gpus=None, jobs=None)
    assert [room.slots({"CPU": float(cpus)}) for cpus in (4, 8, 2, 0)] == [4, 8, 2, 1]


@pytest.mark.parametrize(
    ("available", "wanted", "message"),
    [
        ({"CPU": 4.0}, {"workers": 4}, "4 workers with 1 CPU and 0 GPUs each need more than its 4 CPUs, 0 GPUs"),
        ({"CPU": 8.0, "GPU": 2.0}, {"workers": 3, "gpus": 1.0}, "3 workers with 1 CPU and 1 GPUs each need more"),
        ({"CPU": 8.0}, {"gpus": 0.5}, "1 workers with 1 CPU and 0.5 GPUs each need more than its 8 CPUs, 0 GPUs"),
    ],
)
def test_what_never_fits_is_refused(available, wanted, message):
    with pytest.raises(ValueError, match=f"num_workers must fit the cluster, but {message}"):
        cluster.Room(available, **{"workers": 1, "gpus": None, "jobs": None, **wanted})


@given(peak=st.floats(1e8, 2e11), gpu=st.floats(4e9, 2e11))
def test_trials_that_share_a_gpu_as_suggested_fit_it(peak, gpu):
    share = cluster.gpu_share(peak, gpu)
    if share is None:
        assert 2 * (peak * cluster.FRAGMENTS + cluster.CONTEXT_BYTES) > gpu
    else:
        together = int((1 + 1e-6) // share)
        assert together >= 2 and together * (peak * cluster.FRAGMENTS + cluster.CONTEXT_BYTES) <= gpu


_ASK = """
import ray
from trainables import trial
ray.init(num_cpus=7, num_gpus=2, include_dashboard=False, logging_level="ERROR")
threads = ray.remote(lambda: (trial._num_threads(), trial._decoding_threads()))
print(ray.get([threads.options(num_cpus=1, num_gpus=gpus).remote() for gpus in (0, 1)]))
"""


@pytest.mark.slow
def test_a_gpu_trial_decodes_with_its_share_of_the_nodes_cpus():
    """Ray calls it one CPU; pictures for a GPU need more."""
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[(1, 1), (1, 3)]", done.stderr
