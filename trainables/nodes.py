"""One question to every node of the cluster, answered in a process there, within a time limit."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ANSWER_S = 60.0
"""Longest wait for the nodes' answers: a node has to start a process first."""


@dataclass(frozen=True, kw_only=True, order=True)
class Node:
    """A node that is alive: its Ray id, and where it is."""

    id: str
    host: str
    address: str

    def __str__(self) -> str:
        return f"node {self.host} ({self.address}, {self.id[:8]})"


def alive() -> list[Node]:
    """The nodes of the connected cluster that are alive."""
    import ray

    return [
        Node(id=node["NodeID"], host=node["NodeManagerHostname"], address=node["NodeManagerAddress"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def ask(
    question: Callable[..., Any], *arguments: Any, timeout: float = ANSWER_S
) -> tuple[dict[Node, Any], dict[Node, str]]:
    """Call `question(node_id, *arguments)` once on every node.

    It takes no CPU, so that nodes without any, and those that are busy, answer as well. A node that dies meanwhile is
    left out.

    Returns:
        The answers, and what went wrong on the other nodes that are still alive.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    deadline = time.monotonic() + timeout
    task: Any = ray.remote(num_cpus=0, max_retries=0)(question)
    waiting = {}
    for node in alive():
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        waiting[task.options(scheduling_strategy=there).remote(node.id, *arguments)] = node
    answers, problems = {}, {}
    while waiting and time.monotonic() < deadline:
        done, _ = ray.wait(list(waiting), timeout=1.0)
        for ref in done:
            node = waiting.pop(ref)
            try:
                answers[node] = ray.get(ref)
            except Exception as error:  # whatever the question raises there, and Ray's own
                problems[node] = _last_line(error)
        here = {node.id for node in alive()}
        waiting = {ref: node for ref, node in waiting.items() if node.id in here}
    for ref, node in waiting.items():
        problems[node] = f"no answer in {timeout:.0f} s"
        ray.cancel(ref, force=True)
    here = {node.id for node in alive()}
    return answers, {node: problem for node, problem in problems.items() if node.id in here}


def _last_line(error: Exception) -> str:
    """What went wrong, without the traceback that Ray puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
