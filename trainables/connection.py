"""Joining a Ray cluster: whatever is wrong with it becomes one error that says the way out, within seconds.

Asked directly, Ray tries for 20 s to 60 s, warns once a second and ends in a traceback. So the cluster is asked first,
by calls of Ray's own protocol that have a time limit: does it answer, does it accept the token, has it the same
versions, is this machine one of its nodes?
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ANSWER_S = 5.0
"""Longest wait for one answer."""

STARTS = 3
"""How often a cluster of one's own is started, if it does not come up."""

START_S = 15.0
"""Longest wait for a cluster that answers but is still starting."""

_START = "start one with `ray start --head` or `ray up cluster.yaml`, or leave --address away to run on this machine"
_SUBMIT = "submit the study to the cluster's job server instead: `ray job submit -- python -m ...` (docs/cluster.md)"


def connect(address: str, **init_options: Any) -> None:
    """`ray.init` with a cluster at "auto" or HOST:PORT, or with one of this process's own ("local").

    Raises:
        ValueError: the cluster cannot be joined; no half-open connection is left behind.
    """
    import ray

    if ray.is_initialized():
        raise ValueError("a process can join one Ray cluster at a time, but this one has joined; call ray.shutdown().")
    check(address)
    _keep_workers_here()
    for attempt in range(STARTS):
        try:
            ray.init(address=address, **init_options)
            return
        except Exception as error:  # Ray's kinds differ between its versions and the moments at which something breaks
            ray.shutdown()
            # A busy machine needs more than the 15 s that Ray gives its own processes.
            if "timed out during startup" not in str(error) or attempt + 1 == STARTS:
                raise _not_joined(address, error) from error


def check(address: str) -> None:
    """Refuse a cluster that this process cannot join; "local" needs none.

    Raises:
        ValueError: a malformed address, no answer, another token, other versions, or none of its nodes here.
    """
    _require_host_and_port(address)
    if address == "local":
        return
    place = _place(address)
    _check_versions(address, _metadata(address, place))
    _require_node_here(address, place)


def _keep_workers_here() -> None:
    """Have workers run the Python and the code of their node, as without `uv run`.

    Under `uv run` Ray sends the working directory, results and all, to every node, where `uv run` installs the project
    once more: minutes a node, and impossible without a network.
    """
    from ray._private import ray_constants

    if "RAY_ENABLE_UV_RUN_RUNTIME_ENV" not in os.environ:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


def token_source() -> str:
    """Where Ray takes this process's token from; never the token itself."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH={os.environ['RAY_AUTH_TOKEN_PATH']}"
    default = Path.home() / ".ray" / "auth_token"
    return str(default) if default.is_file() else ""


def _not_joined(address: str, error: Exception) -> ValueError:
    return ValueError(
        f"Ray must start on this machine, but did not ({_line(error)}); see /tmp/ray/session_latest/logs."
        if address == "local"
        else f"the Ray cluster at {address} must accept this process, but did not ({_line(error)}); "
        "`python -m studies.doctor --address ...` looks at it from all sides."
    )


def _require_host_and_port(address: str) -> None:
    if address in ("local", "auto"):
        return
    if address.startswith("ray://"):
        raise ValueError(
            f"--address must be auto or HOST:PORT, but got {address!r}: a study's driver lives in the cluster, where "
            f"it outlasts your connection; {_SUBMIT}."
        )
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme or not host or not port:
        is_dashboard = parts.scheme in ("http", "https")
        also = f"; that is the job server's address: {_SUBMIT}" if is_dashboard else ", e.g. 127.0.0.1:6379"
        raise ValueError(f"--address (or RAY_ADDRESS) must be auto or HOST:PORT, but got {address!r}{also}.")


def _place(address: str) -> str:
    """HOST:PORT of the head's control service, as `ray.init` would find it."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    from ray._private import services

    if address == "auto":
        with suppress(ImportError):  # before Ray 2.59 a token was only used where RAY_AUTH_MODE said so
            from ray._private.authentication import authentication_token_setup

            authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        place = services.canonicalize_bootstrap_address(address)
    except (ConnectionError, ValueError) as error:
        raise _absent(address, error) from None
    if place is None:  # RAY_ADDRESS=local
        raise ValueError(f"--address {address} must find a running cluster, but RAY_ADDRESS says local; {_START}.")
    return place


def _metadata(address: str, place: str) -> Mapping[str, str]:
    """What the cluster says of itself: `ray_version`, `python_version`."""
    from ray.core.generated import gcs_service_pb2_grpc
    from ray.core.generated.gcs_service_pb2 import InternalKVGetRequest  # pyright: ignore[reportAttributeAccessIssue]

    request = InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
    deadline = time.monotonic() + START_S
    with _channel(place) as channel:
        while True:
            answer = _ask(address, gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel).InternalKVGet, request)
            if answer.value:
                return json.loads(answer.value)
            if time.monotonic() > deadline:
                raise _absent(address, f"it is still starting after {START_S:.0f} s")
            time.sleep(0.5)


def _channel(place: str) -> Any:
    """A gRPC channel as Ray opens it: with its token and, where it is told so, TLS."""
    from ray._private.gcs_utils import create_gcs_channel

    return create_gcs_channel(place)


def _ask(address: str, method: Any, request: Any) -> Any:
    """One call of the cluster's protocol, with every way of failing turned into an error."""
    import grpc
    from ray.exceptions import AuthenticationError

    try:
        return method(request, timeout=ANSWER_S)
    except AuthenticationError as error:
        raise ValueError(
            f"RAY_AUTH_MODE=token needs the cluster's token, but none can be read ({str(error).split('. ')[0]}); "
            "put it into ~/.ray/auth_token, or set RAY_AUTH_TOKEN_PATH to its file."
        ) from None
    except grpc.RpcError as error:
        code, details = error.code(), error.details()  # pyright: ignore[reportAttributeAccessIssue]
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise _refused_token(address) from None
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise _absent(address, f"no answer in {ANSWER_S:.0f} s") from None
        if code == grpc.StatusCode.UNAVAILABLE:
            raise _absent(address, str(details).rpartition("last error: ")[2]) from None
        raise ValueError(
            f"--address must be the head of a Ray cluster (its --port, 6379 by default), but what answers at {address} "
            f"does not speak this Ray's protocol ({code.name}: {details}); check the port."
        ) from None


def _refused_token(address: str) -> ValueError:
    mode, source = os.environ.get("RAY_AUTH_MODE"), token_source()
    if (mode or "").lower() != "token":
        return ValueError(
            f"the Ray cluster at {address} wants a token, but RAY_AUTH_MODE is {mode or 'not set'} here; set "
            "RAY_AUTH_MODE=token"
            + (f" (the token would come from {source})." if source else " and put the token into ~/.ray/auth_token.")
        )
    return ValueError(
        f"the Ray cluster at {address} must accept this process's token, but refuses the one from {source}; use the "
        "token that its head was started with."
    )


def _check_versions(address: str, metadata: Mapping[str, str]) -> None:
    """Ray's own rule: the same Ray, and the same Python up to the patch (RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL)."""
    from ray._private import utils

    try:
        utils.check_version_info(dict(metadata), "this machine")
    except RuntimeError:
        ray_version, python_version = utils.compute_version_info()
        raise ValueError(
            f"driver and cluster must run the same versions, but the cluster at {address} has Ray "
            f"{metadata['ray_version']} and Python {metadata['python_version']}, this process Ray {ray_version} and "
            f"Python {python_version}; use the cluster's environment: {_SUBMIT}."
        ) from None


def _require_node_here(address: str, place: str) -> None:
    """A driver needs one of the cluster's nodes on its own machine; where none is, Ray itself waits a minute."""
    from ray._private import services
    from ray.core.generated import gcs_service_pb2_grpc
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # pyright: ignore[reportAttributeAccessIssue]
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest  # pyright: ignore[reportAttributeAccessIssue]

    request = GetAllNodeInfoRequest(state_filter=GcsNodeInfo.ALIVE)
    began = time.monotonic()
    with _channel(place) as channel:
        while True:
            answer = _ask(address, gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetAllNodeInfo, request)
            nodes = {node.node_id.hex(): node.node_manager_address for node in answer.node_info_list}
            if services.find_node_ids() & nodes.keys():
                return
            # After a restart of the head its nodes come back one by one.
            if time.monotonic() - began > (ANSWER_S if nodes else START_S):
                break
            time.sleep(0.5)
    where = f"its nodes: {', '.join(sorted(set(nodes.values())))}" if nodes else "it has no node at all"
    raise ValueError(
        f"a study's driver must run on a node of its Ray cluster, but the one at {address} has none on this machine "
        f"({where}); {_SUBMIT}, or join it with `ray start --address={place}`."
    )


def _absent(address: str, reason: object) -> ValueError:
    return ValueError(f"no Ray cluster answers at {address} ({' '.join(str(reason).split())}); {_START}.")


def _line(error: BaseException) -> str:
    """An error in one line, by its innermost cause, which is where Ray says what happened."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
