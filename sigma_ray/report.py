"""The report of a study: its trials and their statistics as Parquet, a Markdown table, figures."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma_ray.statistics import Comparison, holm, mean_interval, paired_delta

if TYPE_CHECKING:
    from sigma_ray.study import Plan

SIGNIFICANCE = 0.05
Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial: its cost, its final metrics by their logged names, and why it did not finish."""

    arm: str
    seed: int
    status: str
    trial_key: str
    run_id: str = ""
    trainable_parameters: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm over its seeds; numbers are NaN where the seeds do not give them.

    `mean` with its interval is over the arm's `n` usable seeds, `delta` with its interval over the `n_pairs`
    seeds it shares with the baseline; `p_holm` is adjusted for all arms compared. `seconds` is the mean over
    finished trials, `peak_memory_bytes` their maximum.
    """

    arm: str
    difference: str
    baseline: bool
    n: int
    n_failed: int
    mean: float
    ci_low: float
    ci_high: float
    n_pairs: int
    delta: float
    delta_low: float
    delta_high: float
    p: float
    p_holm: float
    verdict: str
    trainable_parameters: int
    seconds: float
    peak_memory_bytes: int
    paper: Mapping[str, float] = field(default_factory=dict)


def usable(rows: Sequence[TrialRow], metric: str) -> dict[str, dict[int, float]]:
    """The metric by arm and seed, for finished trials that have it as a finite number."""
    scores: dict[str, dict[int, float]] = {}
    for row in rows:
        value = row.metrics.get(metric, math.nan)
        if row.status == "FINISHED" and math.isfinite(value):
            scores.setdefault(row.arm, {})[row.seed] = value
    return scores


def summarise(plan: "Plan", rows: Sequence[TrialRow]) -> list[ArmRow]:
    """Every arm of the plan in its order, compared with the first by paired t tests with Holm's step-down."""
    scores = usable(rows, plan.metric)
    names = [arm.name for arm in plan.arms]
    baseline = scores.get(names[0], {})
    compared = {name: paired_delta(scores.get(name, {}), baseline) for name in names[1:]}
    p_holm = dict(zip(compared, holm([comparison.p for comparison in compared.values()]), strict=True))
    differences = plan.differences()
    summary = []
    for arm in plan.arms:
        mine = [row for row in rows if row.arm == arm.name]
        done = [row for row in mine if row.status == "FINISHED"]
        interval = mean_interval(list(scores.get(arm.name, {}).values()))
        comparison = compared.get(arm.name)
        delta = comparison.delta if comparison else None
        summary.append(
            ArmRow(
                arm=arm.name,
                difference=differences.get(arm.name, ""),
                baseline=comparison is None,
                n=interval.n,
                n_failed=len(mine) - interval.n,
                mean=interval.mean,
                ci_low=interval.low,
                ci_high=interval.high,
                n_pairs=delta.n if delta else 0,
                delta=delta.mean if delta else math.nan,
                delta_low=delta.low if delta else math.nan,
                delta_high=delta.high if delta else math.nan,
                p=comparison.p if comparison else math.nan,
                p_holm=p_holm.get(arm.name, math.nan),
                verdict=_verdict(comparison, p_holm.get(arm.name, math.nan), plan.mode),
                trainable_parameters=max((row.trainable_parameters for row in done), default=0),
                seconds=sum(row.seconds for row in done) / len(done) if done else math.nan,
                peak_memory_bytes=max((row.peak_memory_bytes for row in done), default=0),
                paper=dict(arm.paper),
            )
        )
    return summary


def write(
    plan: "Plan",
    rows: Sequence[TrialRow],
    curves: Mapping[tuple[str, int], Curve],
    examples: Mapping[str, Path],
    folder: Path,
    *,
    wall_seconds: float = 0.0,
    slots: int = 0,
) -> list[Path]:
    """Write the report into `folder`, print its table, and return the files.

    Args:
        plan: the study; its first arm is the baseline.
        rows: every trial, failed ones too.
        curves: (step, value) of the validation metric by (arm, seed).
        examples: a `predictions.safetensors` per arm, of one seed.
        folder: `<output>/<study>`, created if need be.
        wall_seconds: how long this invocation took; 0 leaves it out.
        slots: how many trials ran at a time; 0 leaves it out.
    """
    from rich.console import Console

    from sigma_ray import figures, tables
    from sigma_ray.files import write_atomically

    summary = summarise(plan, rows)
    contents = {
        "trials.parquet": trials_parquet(rows),
        "summary.parquet": summary_parquet(plan, summary),
        "table.md": tables.markdown(plan, summary, rows, wall_seconds=wall_seconds, slots=slots).encode(),
    }
    drawings = {
        "metric_vs_parameters.png": figures.metric_vs_parameters(summary, plan.metric),
        "training_curves.png": figures.training_curves(curves, [arm.name for arm in plan.arms], plan.metric),
        "predictions.png": figures.predictions(examples, [arm.name for arm in plan.arms]),
    }
    contents |= {f"figures/{name}": figures.png(figure) for name, figure in drawings.items() if figure}
    for name in drawings.keys() - {Path(name).name for name in contents}:
        (folder / "figures" / name).unlink(missing_ok=True)  # one of a former run would be taken for this one's
    for name, content in contents.items():
        write_atomically(folder / name, content)
    Console().print(tables.console(plan, summary))
    return [folder / name for name in contents]


def trials_parquet(rows: Sequence[TrialRow]) -> bytes:
    """One row per trial; every final metric in a column under its logged name, null where missing."""
    columns = {item.name: item.type for item in fields(TrialRow) if item.name != "metrics"}
    metrics = sorted({name for row in rows for name in row.metrics} - columns.keys())
    records = [
        {name: row.metrics.get(name) for name in metrics} | {name: getattr(row, name) for name in columns}
        for row in rows
    ]
    return _parquet(records, columns | dict.fromkeys(metrics, float), {})


def summary_parquet(plan: "Plan", summary: Sequence[ArmRow]) -> bytes:
    """One row per arm, null where a number is undefined; the paper's numbers as `paper/<name>`."""
    columns = {item.name: item.type for item in fields(ArmRow) if item.name != "paper"}
    papers = {f"paper/{name}": name for row in summary for name in row.paper}
    records = []
    for row in summary:
        record = {name: getattr(row, name) for name in columns}
        record |= {column: row.paper.get(name) for column, name in papers.items()}
        records.append({name: None if value != value else value for name, value in record.items()})
    notes = {"study": plan.study.name, "metric": plan.metric, "mode": plan.mode}
    notes["paper_note"] = plan.study.paper_note
    return _parquet(records, columns | dict.fromkeys(papers, float), notes)


def _parquet(records: Sequence[dict[str, Any]], columns: Mapping[str, object], notes: Mapping[str, str]) -> bytes:
    """Records as the bytes of a Parquet file, with `notes` in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_(), float: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()], metadata=dict(notes))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records), schema=schema), sink)
    return sink.getvalue()


def _verdict(comparison: Comparison | None, p_holm: float, mode: str) -> str:
    """What may be said about an arm against the baseline, and nothing more."""
    if comparison is None:
        return "baseline"
    if math.isnan(comparison.p):
        return "too few seeds"
    if comparison.covers_zero:
        return "no difference shown"
    direction = "better" if (comparison.delta.mean > 0) == (mode == "max") else "worse"
    return direction if p_holm < SIGNIFICANCE else f"{direction} (uncorrected)"
