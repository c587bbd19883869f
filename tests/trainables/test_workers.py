"""What a group of workers failed of: the first cause, not what the others saw of it."""

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from sigma_ray.failures import NonFiniteLossError, OutOfMemoryError, WorkerLostError
from trainables import workers

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2")


def wrapped(error):
    return RayTaskError("work", "the traceback", error, pid=1, ip="127.0.0.1")


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("failures", "wanted"),
    [
        ([LOST, OutOfMemoryError("full")], OutOfMemoryError),
        ([LOST, NonFiniteLossError("nan")], NonFiniteLossError),
        ([LOST, TypeError("bug")], TypeError),
        ([LOST, ActorDiedError()], WorkerLostError),
        ([LOST, LOST], WorkerLostError),
    ],
)
@pytest.mark.parametrize("wrap", [lambda error: error, wrapped])
def test_the_first_cause_counts(failures, wanted, wrap, order):
    error = WorkerGroupError("x", dict(enumerate(wrap(failure) for failure in failures[::order])))
    reason = workers._reason(error)
    assert type(reason) is wanted


def test_a_lost_controller_is_a_lost_worker():
    assert type(workers._reason(ControllerError(ActorDiedError()))) is WorkerLostError
