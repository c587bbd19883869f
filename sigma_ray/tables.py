"""A study's summary as text: Markdown for files, a rich table for the terminal."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from sigma_ray.report import ArmRow, TrialRow
    from sigma_ray.study import Plan

FEWEST_SEEDS = 3
NONE = "-"


def markdown(
    plan: "Plan",
    summary: Sequence["ArmRow"],
    rows: Sequence["TrialRow"],
    *,
    wall_seconds: float = 0.0,
    slots: int = 0,
) -> str:
    """The table, what must be known before it is believed, and how its numbers were computed."""
    papers = list(dict.fromkeys(name for row in summary for name in row.paper))
    head = ["Arm", "Difference to baseline", "Trainable parameters", f"{plan.metric} [95 % CI]"]
    head += [
        "Delta [95 % CI]",
        "Result",
        "p (Holm)",
        "Seeds",
        "Seconds",
        *(f"Paper {name}" for name in papers),
    ]
    align = [":--", ":--", "--:", "--:", "--:", ":--", "--:", "--:", "--:", *("--:" for _ in papers)]
    lines = [f"# {plan.study.question}", "", f"Study `{plan.study.name}`, profile `{plan.profile}`.", ""]
    lines += [_line(head), _line(align)]
    lines += [_line([*_cells(row), *(_plain(row.paper.get(name)) for name in papers)]) for row in summary]
    lines += ["", *(f"**Warning.** {text}\n" for text in warnings(plan, summary, rows))]
    lines += [_explanation(plan, summary)]
    if papers:
        text = "Paper columns are the paper's own numbers, with its data and schedule, not of these runs."
        lines += ["", f"{text} {plan.study.paper_note}".strip()]
    if wall_seconds and slots:
        total = sum(row.seconds for row in rows if row.status == "FINISHED")
        text = f"Finished trials took {total:.0f} s together; this run took {wall_seconds:.0f} s"
        lines += ["", f"{text}, {slots} at a time."]
    return "\n".join(lines) + "\n"


def console(plan: "Plan", summary: Sequence["ArmRow"]) -> "Table":
    """The same numbers for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=plan.study.question, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("Arm", "Params", plan.metric, "Delta", "Result", "Seeds"):
        free = name in ("Arm", "Result")
        table.add_column(name, justify="left" if free else "right", no_wrap=not free)
    colours = {"better": "green", "worse": "red", "too few seeds": "yellow"}
    for row in summary:
        mean = number(row.mean) + _half(row.ci_low, row.ci_high)
        delta = _signed(row.delta) + _half(row.delta_low, row.delta_high)
        cells = [row.arm, _short(row.trainable_parameters), mean, delta, row.verdict, _seeds(row)]
        table.add_row(*(Text(cell) for cell in cells), style=colours.get(row.verdict, ""))
    table.caption = "± half of the 95 % interval over seeds"
    table.caption_justify = "left"
    return table


def warnings(plan: "Plan", summary: Sequence["ArmRow"], rows: Sequence["TrialRow"]) -> list[str]:
    """What weakens the table: failures, lost files, few seeds, a missing baseline, arms whose edit changed nothing."""
    found = []
    for row in rows:
        if row.status != "FINISHED":
            reason = " ".join(row.reason.split()) or "no reason recorded"
            found.append(f"Trial `{row.arm}` seed {row.seed} did not finish ({row.status}): {reason[:200]}.")
        elif not math.isfinite(row.metrics.get(plan.metric, math.nan)):
            found.append(f"Trial `{row.arm}` seed {row.seed} finished without a finite {plan.metric}; left out.")
        if row.status == "FINISHED" and row.reason:
            found.append(f"Trial `{row.arm}` seed {row.seed} finished, but MLflow lacks files of it: {row.reason}.")
    few = [row.arm for row in summary if row.n < FEWEST_SEEDS]
    if few:
        names = ", ".join(f"`{name}`" for name in few)
        found.append(f"Fewer than {FEWEST_SEEDS} seeds for {names}: differences there prove little. Raise --seeds.")
    if summary and summary[0].n == 0:
        found.append(f"The baseline `{summary[0].arm}` has no result, so nothing is compared.")
    return found + _twins(rows, plan.metric)


def number(value: float) -> str:
    """Four decimals, a dash where undefined."""
    return f"{value:.4f}" if math.isfinite(value) else NONE


def _twins(rows: Sequence["TrialRow"], metric: str) -> list[str]:
    """Arms with the same score on every seed: most likely the edit did not reach the model."""
    from sigma_ray.report import usable

    groups: dict[tuple, list[str]] = {}
    for arm, by_seed in usable(rows, metric).items():
        groups.setdefault(tuple(sorted(by_seed.items())), []).append(f"`{arm}`")
    return [
        f"Identical scores on every seed: {', '.join(arms)}; check that their edits take effect."
        for arms in groups.values()
        if len(arms) > 1
    ]


def _explanation(plan: "Plan", summary: Sequence["ArmRow"]) -> str:
    """How the numbers were computed."""
    better = "higher" if plan.mode == "max" else "lower"
    return (
        f"{plan.metric}: mean over seeds ({better} is better) with Student's t interval. "
        f"Delta: mean difference to `{summary[0].arm}`, paired by seed, with the t interval of the paired "
        "differences. p: two-sided paired t test, adjusted for all arms by Holm.\n\n"
        '"No difference shown" means that the interval of the delta covers zero; it does not mean that the '
        'arms are equal. "(uncorrected)" means that the interval excludes zero but the adjusted p is not '
        "below 0.05. Intervals describe the spread over seeds on this data set and schedule, not over others."
    )


def _cells(row: "ArmRow") -> list[str]:
    """An arm's cells, without the paper's."""
    mean = f"{number(row.mean)} {_bounds(row.ci_low, row.ci_high)}".strip()
    delta = NONE if row.baseline else f"{_signed(row.delta)} {_bounds(row.delta_low, row.delta_high, signed=True)}"
    difference = f"`{row.difference}`" if row.difference else NONE
    p_holm = NONE if math.isnan(row.p_holm) else "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
    parameters = f"{row.trainable_parameters:,}" if row.n else NONE
    seconds = f"{row.seconds:.0f}" if math.isfinite(row.seconds) else NONE
    return [row.arm, difference, parameters, mean, delta.strip(), row.verdict, p_holm, _seeds(row), seconds]


def _seeds(row: "ArmRow") -> str:
    """Usable seeds, of how many where some are missing."""
    return f"{row.n} of {row.n + row.n_failed}" if row.n_failed else str(row.n)


def _signed(value: float) -> str:
    return f"{value:+.4f}" if math.isfinite(value) else NONE


def _bounds(low: float, high: float, *, signed: bool = False) -> str:
    """[low, high], empty where undefined."""
    show = _signed if signed else number
    return f"[{show(low)}, {show(high)}]" if math.isfinite(low) else ""


def _half(low: float, high: float) -> str:
    """Half the width of a symmetric interval as ± text, empty where undefined."""
    return f" ±{(high - low) / 2:.4f}" if math.isfinite(low) else ""


def _short(count: int) -> str:
    """A parameter count in at most five characters."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _plain(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}" if value >= 1 else f"{value:g}"


def _line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
