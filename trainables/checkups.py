"""The doctor's checks of services, each a stream of findings: cluster file, tracking, Ray, storage."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from trainables import connection, nodes, preflight, storage
from trainables.findings import Finding, ok, refused, warning

EXPERIMENT = "sigma_ray doctor"
LOW_BYTES = 5 * 10**9


def cluster_file(path: str) -> Iterator[Finding]:
    """A file for `ray up`."""
    from trainables import cluster_files

    found = cluster_files.check(path)
    yield ok("cluster file", ", ".join(f"{name} {value}" for name, value in found.items()))


def tracking(uri: str) -> Iterator[Finding]:
    """The store answers, and takes a run with a metric and a file, which is then deleted."""
    from sigma_ray import tracker_uri
    from sigma_ray.mlflow_client import connect, experiment_id
    from sigma_ray.mlflow_files import download

    tracker_uri.check(uri)
    yield _server_version(uri)
    store = tracker_uri.absolute(uri)
    client = connect(store)
    try:
        run_id = client.create_run(experiment_id(client, store, EXPERIMENT)).info.run_id
    except Exception as error:
        raise ValueError(
            f"the tracking store {tracker_uri.redact(uri)} must take new runs, but refuses ({_first(error)}); check "
            "its database, its disk and your permission"
        ) from None
    try:
        client.log_metric(run_id, "doctor", 1.0)
        yield ok("tracking", f"{tracker_uri.redact(uri)} takes runs and metrics")
        with tempfile.TemporaryDirectory() as scratch:
            sent = Path(scratch) / "doctor.txt"
            sent.write_text(run_id)
            try:
                client.log_artifact(run_id, str(sent))
                stored = download(client, run_id, sent.name, Path(scratch) / "back").read_text()
            except Exception as error:
                raise ValueError(
                    f"the artifact store of {tracker_uri.redact(uri)} must take files, but refuses ({_first(error)}); "
                    "check its folder or bucket, which the MLflow server was started with, and who may write there"
                ) from None
        if stored != run_id:
            raise ValueError("the artifact store gave back another file than it was given; check what lies behind it")
        yield ok("artifacts", "a file was stored and read back")
    finally:
        client.delete_run(run_id)


def _server_version(uri: str) -> Finding:
    import requests

    mine = version("mlflow")
    if not uri.startswith(("http://", "https://")):
        return ok("tracking", f"MLflow {mine}")
    theirs = requests.get(f"{uri.rstrip('/')}/version", timeout=10).text.strip()
    if theirs.split(".")[0] == mine.split(".")[0]:
        return ok("tracking", f"MLflow {mine}, server {theirs}")
    remedy = f"install mlflow {theirs} here, or {mine} there"
    return warning("tracking", f"MLflow {mine}, but server {theirs}", remedy)


@contextmanager
def connected(address: str | None) -> Iterator[tuple[bool, list[Finding]]]:
    """Ray while the context lasts, on a cluster or, without an address, started here; whether that worked."""
    import ray

    try:
        place = preflight.ray_address(address)
        local = {"include_dashboard": False} if place == "local" else {}
        connection.connect(place, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:
        yield False, [refused("ray", error)]
        return
    try:
        there = "starts on this machine" if place == "local" else f"answers at {place}"
        findings = [ok("ray", f"{ray.__version__} {there}")]
        yield True, findings if place == "local" else [*findings, authentication(), state_api()]
    finally:
        ray.shutdown()


def authentication() -> Finding:
    """Whether the connected cluster turns away who has no token, by asking it without one."""
    import grpc
    import ray
    from ray.core.generated import gcs_service_pb2_grpc
    from ray.core.generated.gcs_service_pb2 import InternalKVGetRequest  # pyright: ignore[reportAttributeAccessIssue]

    request = InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
    stub = gcs_service_pb2_grpc.InternalKVGcsServiceStub
    try:
        with grpc.insecure_channel(ray.get_runtime_context().gcs_address) as channel:
            stub(channel).InternalKVGet(request, timeout=connection.ANSWER_S)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return ok("ray token", f"wanted; here from {connection.token_source()}")
        return ok("ray token", "the cluster takes no plain connection")
    return warning(
        "ray token",
        "the cluster takes everybody who reaches its ports, and runs what they send",
        "start its nodes with RAY_AUTH_MODE=token and one token (docs/cluster.md)",
    )


def state_api() -> Finding:
    """Whether the dashboard answers: `ray job submit` and Ray Train's own cleaning need it."""
    from ray.util.state import list_nodes

    try:
        found = list_nodes(timeout=10, raise_on_missing_output=False)
    except Exception as error:
        return warning(
            "ray state api",
            f"does not answer ({_first(error)})",
            "start the head with --include-dashboard=true and ray[default] installed",
        )
    return ok("ray state api", f"answers, {len(found)} nodes")


def ray_cluster() -> Iterator[Finding]:
    """What the connected cluster has."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    has = ", ".join(f"{total.get(kind, 0):g} {kind}s ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU"))
    gone = sum(not node["Alive"] for node in ray.nodes())
    detail = f"{len(nodes.alive())} nodes, {has}" + (f"; {gone} nodes have left" if gone else "")
    if total.get("CPU", 0) >= 1:
        yield ok("ray resources", detail)
    else:
        remedy = "add workers; an autoscaler starts them once a study waits"
        yield warning("ray resources", detail, remedy)


def shared_storage(output: Path) -> Iterator[Finding]:
    """The results' folder, on every node."""
    free = storage.check(preflight.output_folder(output))
    least = min(free.values())
    detail = f"{output} is seen and written by {len(free)} nodes, {least / 1e9:.0f} GB free"
    if least >= LOW_BYTES:
        yield ok("storage", detail)
    else:
        yield warning("storage", detail, "free some space before a long study")


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
