"""What a cluster can grow to, told to Ray by its head: `ray up` starts an autoscaler that keeps it to itself.

Without this a study that starts while no GPU node is up would be refused, for the cluster has no GPU yet.
"""

from collections.abc import Mapping
from typing import Any

ALIVE = 0  # ray.core.generated.gcs_pb2.GcsNodeInfo.ALIVE


def address() -> str:
    """Where Ray's control service listens, on a node of the cluster."""
    from ray._private.services import canonicalize_bootstrap_address_or_die  # what address="auto" does

    return canonicalize_bootstrap_address_or_die("auto")


def announce(gcs_address: str, config: Mapping[str, Any]) -> bool:
    """Tell the cluster what its autoscaler may start; `ray.cluster_resources` stays what there is.

    Args:
        gcs_address: of Ray's control service.
        config: the file of the head's autoscaler, in which `ray up` has filled in what each type of node has.

    Returns:
        Whether that is known; machines of one's own (provider local) are seen only once they have joined.
    """
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2

    told = autoscaler_pb2.ClusterConfig()  # pyright: ignore[reportAttributeAccessIssue]
    for name, kind in config["available_node_types"].items():
        if name != config["head_node_type"] and kind["resources"]:
            resources = {key: int(value) for key, value in kind["resources"].items()}
            counts = {"min_count": kind["min_workers"], "max_count": min(kind["max_workers"], config["max_workers"])}
            told.node_group_configs.add(name=name, resources=resources, **counts)
    if not told.node_group_configs:
        return False
    key = _raylet.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode()  # pyright: ignore[reportAttributeAccessIssue]
    namespace = _raylet.GCS_AUTOSCALER_STATE_NAMESPACE.encode()  # pyright: ignore[reportAttributeAccessIssue]
    _client(gcs_address).internal_kv_put(key, told.SerializeToString(), True, namespace)
    return True


def has_workers(gcs_address: str) -> bool:
    """Whether a node besides the head is up."""
    from ray.exceptions import RpcError

    try:
        nodes = _client(gcs_address).get_all_node_info(timeout=10).values()
    except RpcError:  # Ray is on its way out
        return False
    return any(node.state == ALIVE and not node.is_head_node for node in nodes)


def _client(gcs_address: str) -> Any:
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

    return GcsClient(address=gcs_address)
