"""Every way in which a cluster cannot be joined, caused for real: one error each, soon, and nothing else printed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import grpc
import pytest
from ray_nodes import LOOPBACK, REPOSITORY, environment, free_ports, head

from trainables import connection

TOKEN = "0123456789abcdef" * 4
RIGHT = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
JOIN = """
import logging, sys
from trainables import connection
try:
    connection.connect(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
except ValueError as error:
    import ray
    sys.exit(f"error: {error} (initialized: {ray.is_initialized()})")
import ray
print(ray.cluster_resources()["CPU"])
"""


@pytest.fixture(scope="module")
def address():
    """A head that demands a token."""
    with head(token=TOKEN, num_cpus=3) as place:
        yield place


def join(place, home, *before, **settings):
    command = [*before, sys.executable, "-c", JOIN, place]
    return subprocess.run(command, env=environment(home, **settings), capture_output=True, text=True, timeout=60)


def refusal(done) -> str:
    assert done.returncode == 1 and done.stdout == "", done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.strip().endswith("(initialized: False)")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_the_right_token_joins(address, tmp_path):
    done = join(address, tmp_path, **RIGHT)
    assert (done.stdout, done.stderr) == ("3.0\n", "")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    assert join(address, tmp_path, RAY_AUTH_MODE="token").stdout == "3.0\n"
    assert join("auto", tmp_path, RAY_ADDRESS=address).stdout == "3.0\n", "found by itself, as ray.init does"


@pytest.mark.skipif(not shutil.which("uv"), reason="needs uv")
def test_uv_run_changes_nothing_on_the_nodes(address, tmp_path):
    """Ray would copy the working directory, and start every worker by `uv run`."""
    code = JOIN.replace('ray.cluster_resources()["CPU"]', "ray.get_runtime_context().runtime_env")
    command = ["uv", "run", "--no-sync", "--project", str(REPOSITORY), "python", "-c", code, address]
    environ = environment(tmp_path, **RIGHT)
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{}\n", done.stderr


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "wants a token, but RAY_AUTH_MODE is not set here"),
        ({"RAY_AUTH_MODE": "disabled"}, "wants a token, but RAY_AUTH_MODE is disabled here"),
        ({"RAY_AUTH_MODE": "token"}, "none can be read"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no/such/file"}, "none can be read"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "deadbeef" * 8}, "refuses the one from RAY_AUTH_TOKEN"),
    ],
)
def test_a_wrong_or_missing_token_is_refused(address, tmp_path, settings, says):
    began = time.monotonic()
    said = refusal(join(address, tmp_path, **settings))
    assert says in said and "deadbeef" not in said and time.monotonic() - began < 15


@pytest.mark.parametrize("key", ["ray_version", "python_version"])
def test_other_versions_are_refused(address, tmp_path, key):
    """The cluster says of itself that it runs another version."""
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)
        auth = (("authorization", f"Bearer {TOKEN}"),)
        place = {"key": b"CLUSTER_METADATA", "namespace": b"cluster"}
        true = stub.InternalKVGet(gcs_service_pb2.InternalKVGetRequest(**place), metadata=auth).value

        def put(value):
            request = gcs_service_pb2.InternalKVPutRequest(**place, value=value, overwrite=True)
            stub.InternalKVPut(request, metadata=auth)

        put(json.dumps(json.loads(true) | {key: "3.9.99"}).encode())
        try:
            said = refusal(join(address, tmp_path, **RIGHT))
        finally:
            put(true)
    assert "the same versions" in said and said.count("3.9.99") == 1 and "ray job submit" in said


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs to hide processes")
def test_a_driver_outside_the_cluster_is_refused(address, tmp_path):
    """In a process namespace of its own no node's process can be seen, as on another machine."""
    hidden = ("unshare", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*hidden, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let processes be hidden")
    said = refusal(join(address, tmp_path, *hidden, **RIGHT))
    assert "must run on a node of its Ray cluster" in said and f"its nodes: {LOOPBACK}" in said


def test_what_does_not_answer_is_no_cluster(tmp_path):
    (port,) = free_ports(1)
    place = f"{LOOPBACK}:{port}"
    assert f"no Ray cluster answers at {place}" in refusal(join(place, tmp_path))
    with socket.create_server((LOOPBACK, port)):  # accepts, and says nothing
        began = time.monotonic()
        said = refusal(join(place, tmp_path))
    assert "no answer in 5 s" in said and time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("ray://127.0.0.1:10001", "ray job submit"),
        ("http://127.0.0.1:8265", "ray job submit"),
        ("somewhere", "must be auto or HOST:PORT"),
        ("host:port", "must be auto or HOST:PORT"),
        ("host:99999", "must be auto or HOST:PORT"),
    ],
)
def test_addresses_of_another_kind_are_refused_without_ray(given, says):
    with pytest.raises(ValueError, match=says):
        connection.check(given)


def test_a_cluster_of_its_own_that_cannot_start(tmp_path):
    """Ray's folder cannot be made; the process can still start one elsewhere."""
    code = JOIN.replace("connect(sys.argv[1]", "connect('local', include_dashboard=False, _temp_dir=sys.argv[1]")
    command = [sys.executable, "-c", code, "/proc/ray"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert "Ray must start on this machine, but did not" in refusal(done)
