"""Progress of a study: a live table on a terminal, one line per event otherwise."""

import time
from typing import Any

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sigma_ray.study import Plan


class Console:
    """Shows arms x seeds, the current metric and the time left. A context manager."""

    def __init__(self, plan: Plan, *, done: set[tuple[str, int]], slots: int, rich: RichConsole | None = None) -> None:
        self.plan, self.slots = plan, slots
        self.rich = rich or RichConsole(highlight=False, soft_wrap=True)
        self.cells: dict[tuple[str, int], str] = dict.fromkeys(done, "[green]stored[/]")
        self.todo = [(t.arm, t.seed) for t in plan.trials if (t.arm, t.seed) not in done]
        self.durations: list[float] = []
        self.began: dict[tuple[str, int], float] = {}
        self.ended: set[tuple[str, int]] = set()
        self.live = Live(console=self.rich, get_renderable=self.table, refresh_per_second=2) if self.is_live else None

    @property
    def is_live(self) -> bool:
        """Whether the output is a terminal that can be redrawn."""
        return self.rich.is_terminal

    def __enter__(self) -> "Console":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()

    def started(self, arm: str, seed: int) -> None:
        """A trial's attempt begins."""
        self.began[arm, seed] = time.monotonic()
        self._show(arm, seed, "[cyan]started[/]", "started")

    def progressed(self, arm: str, seed: int, points: list[dict[str, float]], num_steps: int) -> None:
        """A trial has validated."""
        latest = {key: value for point in points for key, value in point.items()}
        values = [f"{k} {v:.3f}" for k, v in latest.items() if k in (self.plan.metric.replace("test/", "val/"),)]
        share = f"step {int(latest['step'])}/{num_steps}"
        self._show(
            arm, seed, f"[cyan]{latest['step'] / num_steps:.0%}[/] {' '.join(values)}", " ".join([share, *values])
        )

    def finished(self, arm: str, seed: int, final: dict[str, Any]) -> None:
        """A trial has been tested."""
        duration = time.monotonic() - self.began.get((arm, seed), time.monotonic())
        self.durations.append(duration)
        self.ended.add((arm, seed))
        value = final[self.plan.metric]
        self._show(arm, seed, f"[green]{value:.3f}[/]", f"finished {self.plan.metric} {value:.4f} in {duration:.0f} s")

    def again(self, arm: str, seed: int, reason: str) -> None:
        """A trial's attempt has ended without a result, and another one follows."""
        self._show(arm, seed, "[yellow]again[/]", f"attempt ended, to be tried again: {reason}")

    def warned(self, arm: str, seed: int, warning: str) -> None:
        """A trial goes on, but not as it should."""
        self.rich.print(f"warning: {arm} / seed {seed}: {warning}", markup=False)

    def failed(self, arm: str, seed: int, reason: str) -> None:
        """A trial has ended without a result."""
        self.ended.add((arm, seed))
        self._show(arm, seed, "[red]failed[/]", f"failed: {reason}")

    def seconds_left(self) -> float | None:
        """Expected seconds until the last trial ends, from the mean of those that ended; None before the first."""
        if not self.durations:
            return None
        now = time.monotonic()
        running = [key for key in self.began if key not in self.ended]
        spent = sum(min(now - self.began[key], self._mean()) for key in running)
        return max(0.0, (self._mean() * (len(self.todo) - len(self.ended)) - spent) / self.slots)

    def table(self) -> Group:
        """The live view."""
        table = Table(title=self.plan.study.question, title_justify="left", title_style="bold")
        table.add_column("arm", overflow="fold")
        for seed in self.plan.seeds:
            table.add_column(f"seed {seed}", min_width=12)
        for arm in self.plan.arms:
            table.add_row(arm.name, *(self.cells.get((arm.name, seed), "[dim]waiting[/]") for seed in self.plan.seeds))
        return Group(table, Text(self._summary(), style="dim"))

    def _summary(self) -> str:
        left = self.seconds_left()
        eta = "" if left is None else f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"
        return f"{len(self.ended)}/{len(self.todo)} trials{eta}"

    def _mean(self) -> float:
        return sum(self.durations) / len(self.durations)

    def _show(self, arm: str, seed: int, cell: str, line: str) -> None:
        self.cells[arm, seed] = cell
        if not self.live:
            width = len(str(len(self.todo)))
            self.rich.print(f"[{len(self.ended):>{width}}/{len(self.todo)}] {arm} / seed {seed}: {line}", markup=False)
