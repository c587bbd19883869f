"""When to save a trial between its evaluations: so often, and when its node is about to go."""

import time

EVERY_S, POLL_S = 300.0, 2.0


class Moments:
    """Asked by the training loop now and then whether to save; True every `every_s` seconds and at each notice.

    A notice is a node of the cluster that Ray has begun to drain, as it does with one that will be pre-empted.
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        self.every_s = every_s
        self._last = self._polled = time.monotonic()
        self._known: set[str] = set()

    def __call__(self) -> bool:
        """Whether to save now."""
        now = time.monotonic()
        due = now - self._last >= self.every_s
        if now - self._polled >= POLL_S:
            self._polled = now
            leaving = _leaving()
            due |= bool(leaving - self._known)
            self._known = leaving
        if due:
            self._last = now
        return due


def _leaving() -> set[str]:
    """Nodes that are being drained."""
    import ray

    if not ray.is_initialized():
        return set()
    from ray._private.state import state  # what Ray Train's own watcher asks

    return set(state.get_draining_nodes())
