"""Placement groups that outlived the processes they were made for.

The workers of a trial hold their CPUs and GPUs in a placement group which Ray frees when the whole study ends, not when
the process that asked for it dies. Ray Train's own watchman is a process too, and dies with its node. A group that
nobody frees keeps its GPUs, and the next trial waits for ever.
"""

from typing import Any

import ray
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, PlacementGroupID, remove_placement_group

_GROUP = vars(gcs_pb2)["PlacementGroupTableData"]  # made at import, where type checkers cannot see it


def remove_orphans() -> int:
    """Free every placement group of this study's whose creator, an actor, is dead; return how many there were."""
    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    orphans = [group for group in _table() if group.creator_job_id == job and _is_orphan(group)]
    for group in orphans:
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return len(orphans)


def _table() -> list[Any]:
    """What the cluster knows; the public table leaves the creator out."""
    return [_GROUP.FromString(entry) for entry in state._connect_and_get_accessor().get_placement_group_table()]


def _is_orphan(group: Any) -> bool:
    """Whether an actor made it and has died; Ray calls the absent creator of a driver's own groups dead too."""
    by_actor = bool(group.creator_actor_id.strip(b"\xff"))
    removed = group.state == _GROUP.PlacementGroupState.REMOVED
    return by_actor and group.creator_actor_dead and not group.is_detached and not removed
