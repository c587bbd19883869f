"""The doctor's checks of every node, against the process that asks: software, weights, data, GPUs, clock."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainables import inspection, nodes
from trainables.findings import Finding, ok, problem, warning

SKEW_S = 5.0
"""Difference between two clocks from which on times in MLflow mislead."""


def every_node(weights: str | None, data_root: str | None) -> Iterator[Finding]:
    """Software, weights, data, GPUs and clock of every node, compared with this process's."""
    import ray

    weights, data_root = (str(Path(path).absolute()) if path else None for path in (weights, data_root))
    began = time.time()
    answers, problems = nodes.ask(inspection.look, weights, data_root)
    ended = time.time()
    for node, reason in sorted(problems.items()):
        remedy = "install the project there as here (docs/cluster.md), or take the node away"
        yield problem("nodes", f"{node}: {reason}", remedy)
    given = {node["NodeID"]: node["Resources"].get("GPU", 0) for node in ray.nodes()}
    mine = {
        "software": inspection.software(),
        "weights": inspection.describe_file(weights) if weights else None,
        "data": inspection.describe_folder(data_root) if data_root else None,
    }
    for node in sorted(answers):
        yield from compare(str(node), mine, answers[node], (began, ended), given.get(node.id, 0))


def compare(
    node: str, mine: Mapping[str, Any], theirs: Mapping[str, Any], asked: tuple[float, float], given_gpus: float
) -> Iterator[Finding]:
    """One node's facts against this process's.

    Args:
        node: its name.
        mine: `software`, `weights` and `data` here.
        theirs: what `inspection.look` returned there.
        asked: this process's clock before and after the question.
        given_gpus: how many GPUs Ray hands out there.
    """
    other = [f"{k} {v} (here {mine['software'][k]})" for k, v in theirs["software"].items() if v != mine["software"][k]]
    if other:
        remedy = "install the same commit with the same lock file on every node"
        yield problem("software", f"{node} has {', '.join(other)}", remedy)
    else:
        yield ok("software", f"{node} as here: {_brief(mine['software'])}")
    if theirs["bundled"]:
        remedy = "reinstall the package there"
        yield problem("bundled weights", f"{node}: {theirs['bundled']}", remedy)
    for what, flag in (("weights", "--weights"), ("data", "--data-root")):
        if mine[what] is not None and theirs[what] != mine[what]:
            detail = f"{node} has {theirs[what]}, here {mine[what]}"
            remedy = f"put what {flag} names at the same path on every node, best on shared storage"
            yield problem(what, detail, remedy)
        elif mine[what] is not None:
            yield ok(what, f"{node} as here: {mine[what]}")
    yield from _gpus(node, theirs["gpus"], given_gpus)
    skew = max(asked[0] - theirs["clock"], theirs["clock"] - asked[1], 0.0)
    if skew > SKEW_S:
        detail = f"{node}: its clock differs by {skew:.0f} s or more"
        yield warning("clock", detail, "run a time service (chrony) there")


def _gpus(node: str, found: Mapping[str, Any], given: float) -> Iterator[Finding]:
    seen = len(found["driver"])
    kinds = ", ".join(f"{count} x {kind}" for kind, count in Counter(found["driver"]).items())
    if found["error"] or found["torch"] < seen:
        detail = (
            f"{node}: {kinds or 'GPUs unknown'}, of which PyTorch can use {found['torch']} ({found['error'] or 'no'})"
        )
        remedy = "install a driver for the CUDA that PyTorch was built with (`python -m torch.utils.collect_env`)"
        yield problem("gpus", detail, remedy)
    elif given != seen:
        detail = f"{node}: Ray hands out {given:g} GPUs, the driver has {seen}"
        remedy = "start Ray there with --num-gpus, if it is not on purpose"
        yield warning("gpus", detail, remedy)
    elif seen:
        yield ok("gpus", f"{node}: {kinds}, CUDA {found['cuda']}")


def _brief(software: Mapping[str, str]) -> str:
    names = ("python", "torch", "ray", "sigma_ray")
    return ", ".join(f"{name} {software[name][:12]}" for name in names)
