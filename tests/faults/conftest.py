"""A study of two trials, undisturbed once, for all tests to compare with."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.faults import audit, disks
from benchmarks.faults.driver import Driver, Recorded, recorded, small
from benchmarks.faults.nodes import Cluster
from benchmarks.faults.tracker import TrackingServer

STEPS, INTERVAL = 60, 5
PROGRAM = (str(Path(__file__).parent / "pair_study.py"),)


@dataclasses.dataclass
class Pair:
    """The study in a folder of its own, on the cluster; on sqlite unless told otherwise."""

    driver: Driver
    cluster: Cluster
    uri: str
    output: Path
    reference: str

    def trials(self) -> dict[str, Recorded]:
        return {trial.name.split()[0]: trial for trial in recorded(self.uri)[0]}

    def kill_trials(self) -> None:
        for process in self.cluster.trials():
            process.kill()

    def checkpoints(self, arm: str) -> list[Path]:
        """The files of the trial of `arm` (the only folder whose name its run has), oldest first."""
        key = self.trials()[arm].tags["trial_key"]
        return sorted((self.output / "faults/trials" / key).glob("step-*.safetensors"))

    def wrong(self) -> list[str]:
        """What differs from the undisturbed study, or is left over."""
        found = audit.of_records(self.uri, self.reference, 2) + audit.of_folder(self.output / "faults")
        return found + audit.of_processes(self.cluster, [self.driver]) + audit.of_cluster(self.cluster)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> str:
    """Tracking URI of the undisturbed study."""
    folder = tmp_path_factory.mktemp("undisturbed")
    driver = Driver(folder, ["--seeds", "1", *small(STEPS, INTERVAL)], {}, PROGRAM)
    try:
        for _ in range(3):  # Ray gives up where it does not start in 30 s, as on a machine that has too much to do
            driver.start()
            if driver.await_end() == 0:
                break
        assert driver.exit_code == 0, driver.output()
    finally:
        driver.kill()
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture(scope="session")
def machines() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(machines) -> Cluster:
    """A head and two workers with a CPU each, all of them there, whatever the test before has done to them."""
    machines.heal()
    return machines


@pytest.fixture
def study(tmp_path, undisturbed, cluster) -> Iterator[Callable[..., Pair]]:
    """Makes studies, with other flags or another environment; kills what is left of them."""
    with ExitStack() as stack:

        def make(*flags: str, tracker: TrackingServer | None = None, **environment: str) -> Pair:
            uri = tracker.uri if tracker else f"sqlite:///{tmp_path / 'mlflow.db'}"
            common = ["--seeds", "1", *small(STEPS, INTERVAL), "--tracking-uri", uri, "--address", cluster.address]
            driver = Driver(tmp_path, [*common, *flags], {**cluster.environment, **environment}, PROGRAM)
            stack.callback(driver.kill)
            return Pair(driver, cluster, uri, tmp_path / "results", undisturbed)

        yield make


@pytest.fixture(scope="module")
def running_server(tmp_path_factory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("mlflow")) as tracker:
        yield tracker


@pytest.fixture
def server(running_server) -> TrackingServer:
    """An MLflow server, whatever the test before has done to it, that knows nothing of the study."""
    from mlflow import MlflowClient

    if not running_server.running:
        running_server.begin()
    running_server.go_on()
    client = MlflowClient(running_server.uri)
    if experiment := client.get_experiment_by_name("faults"):
        client.rename_experiment(experiment.experiment_id, f"of an earlier test {time.time_ns()}")
    return running_server


@pytest.fixture
def may_mount() -> None:
    if not disks.can_mount():
        pytest.skip("needs root, to mount a file system that is full or read-only")
