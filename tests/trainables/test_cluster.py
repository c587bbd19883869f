"""How many trials fit, from what a cluster has (sessions themselves: test_tuner.py)."""

import subprocess
import sys

import pytest

from trainables import cluster


@pytest.mark.parametrize(
    ("available", "workers", "jobs", "resources", "count"),
    [
        ({"CPU": 2.0}, 1, None, {"CPU": 1.0}, 2),
        ({"CPU": 8.0}, 1, 3, {"CPU": 1.0}, 3),
        ({"CPU": 16.0, "GPU": 4.0}, 1, None, {"CPU": 1.0, "GPU": 1.0}, 4),
        ({"CPU": 2.0, "GPU": 4.0}, 1, 8, {"CPU": 1.0, "GPU": 1.0}, 2),
        ({"CPU": 3.0}, 2, None, {"CPU": 0.01}, 1),
        ({"CPU": 9.0}, 2, None, {"CPU": 0.01}, 4),
        ({"CPU": 16.0, "GPU": 4.0}, 2, None, {"CPU": 0.01}, 2),
    ],
)
def test_slots(available, workers, jobs, resources, count):
    assert cluster.slots(available, workers, jobs) == (resources, count)


def test_more_workers_than_processors_are_refused():
    with pytest.raises(ValueError, match="num_workers must fit the cluster, but 4 workers need more than its 4 CPUs"):
        cluster.slots({"CPU": 4.0}, 4, None)


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
