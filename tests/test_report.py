"""The report's files hold what the statistics say, failures included, and claim nothing more."""

import io
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from sigma_ray import pictures, report, tables
from sigma_ray.config import flatten, to_dict
from sigma_ray.profiles import load
from sigma_ray.report import ArmRow, TrialRow
from sigma_ray.statistics import holm, mean_interval, paired_delta
from sigma_ray.study import Arm, Plan, Study, Trial

METRIC = "test/miou"
SCORES = {
    "sigma": {0: 0.300, 1: 0.304, 2: 0.299},
    "no fusion": {0: 0.280, 1: 0.283, 2: 0.281},
    "no modulation": {0: 0.301, 1: 0.302, 2: 0.300},
    "fixed": {0: 0.266, 1: 0.272, 2: 0.270},
}


def plan_of(arms: list[str], mode: str = "max") -> Plan:
    """A plan whose arms have the baseline's configuration except for the learning rate."""
    papers = {"sigma": {"mAP": 54.4, "AP50": 74.0}, "no fusion": {"mAP": 52.2}}
    made = tuple(Arm(name=name, paper=papers.get(name, {})) for name in arms)
    base = load("demo")
    trials = []
    for index, name in enumerate(arms):
        train = replace(base.train, learning_rate=base.train.learning_rate * (1 + index))
        trials += [Trial(arm=name, seed=seed, config=replace(base, train=train, seed=seed)) for seed in (0, 1, 2)]
    study = Study(name="s", question="Which part?", arms=lambda _: made, mode=mode, paper_note="Table 5.")
    return Plan(study=study, profile="demo", arms=made, seeds=(0, 1, 2), trials=tuple(trials))


def rows_of(scores: Mapping[str, Mapping[int, float]]) -> list[TrialRow]:
    """Finished trials with these scores."""
    return [
        TrialRow(
            arm=arm,
            seed=seed,
            status="FINISHED",
            trial_key=f"{arm}-{seed}",
            run_id=f"run-{arm}-{seed}",
            trainable_parameters=1000 * len(arm),
            seconds=10.0 + seed,
            peak_memory_bytes=10**8 + seed,
            metrics={METRIC: score, "val/miou": score + 0.01},
        )
        for arm, by_seed in scores.items()
        for seed, score in by_seed.items()
    ]


FAILED = TrialRow(arm="fixed", seed=2, status="FAILED", trial_key="fixed-2", reason="RuntimeError: out of\nmemory")


def with_failure() -> list[TrialRow]:
    """All scores except that seed 2 of `fixed` crashed."""
    return [row for row in rows_of(SCORES) if row.trial_key != "fixed-2"] + [FAILED]


def by_arm(rows: list[TrialRow], mode: str = "max") -> dict[str, ArmRow]:
    """The summary by arm."""
    return {row.arm: row for row in report.summarise(plan_of(list(SCORES), mode), rows)}


def test_the_summary_is_the_statistics() -> None:
    """Means, intervals, paired deltas and Holm's p of every arm."""
    summary = by_arm(rows_of(SCORES))
    arms = list(SCORES)[1:]
    adjusted = holm([paired_delta(SCORES[arm], SCORES["sigma"]).p for arm in arms])
    for arm, p_holm in zip(arms, adjusted, strict=True):
        interval, comparison = (
            mean_interval(list(SCORES[arm].values())),
            paired_delta(SCORES[arm], SCORES["sigma"]),
        )
        row = summary[arm]
        assert (row.mean, row.ci_low, row.ci_high, row.n) == (interval.mean, interval.low, interval.high, 3)
        assert (row.delta, row.delta_low, row.p) == (
            comparison.delta.mean,
            comparison.delta.low,
            comparison.p,
        )
        assert row.p_holm == p_holm
    assert summary["sigma"].baseline
    assert math.isnan(summary["sigma"].delta)
    assert summary["sigma"].seconds == 11
    assert summary["sigma"].peak_memory_bytes == 10**8 + 2


def test_verdicts_say_no_more_than_the_data() -> None:
    """Worse, no difference shown, baseline; turned round for a metric that should fall."""
    verdicts = {arm: row.verdict for arm, row in by_arm(rows_of(SCORES)).items()}
    assert verdicts["sigma"] == "baseline"
    assert verdicts["no modulation"] == "no difference shown"
    assert verdicts["no fusion"] == verdicts["fixed"] == "worse"
    assert by_arm(rows_of(SCORES), "min")["fixed"].verdict == "better"


def test_significant_only_without_correction_is_said() -> None:
    """An interval that excludes zero while Holm's p does not fall below 0.05."""
    scores = SCORES | {"fixed": {0: 0.290, 1: 0.297, 2: 0.286}, "no fusion": {0: 0.301, 1: 0.302, 2: 0.303}}
    row = by_arm(rows_of(scores))["fixed"]
    assert row.delta_high < 0
    assert row.p < 0.05 < row.p_holm
    assert row.verdict == "worse (uncorrected)"


def test_failed_trials_stay_visible(tmp_path: Path) -> None:
    """In the Parquet file with status and reason, in the table as a warning in one line."""
    plan, rows = plan_of(list(SCORES)), with_failure()
    table = pq.read_table(io.BytesIO(report.trials_parquet(rows))).to_pylist()
    failed = next(row for row in table if row["trial_key"] == "fixed-2")
    assert failed["status"] == "FAILED"
    assert failed["reason"] == FAILED.reason
    assert failed[METRIC] is None
    summary = report.summarise(plan, rows)
    text = tables.markdown(plan, summary, rows)
    assert "Trial `fixed` seed 2 did not finish (FAILED): RuntimeError: out of memory." in text
    assert "Fewer than 3 seeds for `fixed`" in text
    assert "| 2 of 3 |" in text
    assert summary[3].n_pairs == 2


def test_trials_come_back_from_parquet() -> None:
    """Columns of the contract with one per metric under its logged name."""
    rows = rows_of(SCORES)
    table = pq.read_table(io.BytesIO(report.trials_parquet(rows)))
    expected = {"arm", "seed", "status", "trial_key", "run_id", "trainable_parameters", "seconds"}
    assert expected | {"peak_memory_bytes", METRIC, "val/miou"} <= set(table.column_names)
    for record, row in zip(table.to_pylist(), rows, strict=True):
        metrics = {name: record[name] for name in row.metrics}
        fields = {name: value for name, value in record.items() if "/" not in name}
        assert TrialRow(**fields, metrics=metrics) == row


def test_the_summary_comes_back_from_parquet() -> None:
    """Undefined numbers are null, the paper's have columns, the metric is in the metadata."""
    plan = plan_of(list(SCORES))
    summary = report.summarise(plan, rows_of(SCORES))
    table = pq.read_table(io.BytesIO(report.summary_parquet(plan, summary)))
    records = table.to_pylist()
    assert [record["arm"] for record in records] == list(SCORES)
    assert [record["mean"] for record in records] == [row.mean for row in summary]
    assert records[0]["delta"] is None
    assert records[1]["p_holm"] == summary[1].p_holm
    assert [record["paper/mAP"] for record in records] == [54.4, 52.2, None, None]
    assert table.schema.metadata[b"metric"] == METRIC.encode()


def test_numbers_in_the_table_are_the_statistics() -> None:
    """Each cell of an arm's line, and the paper's columns."""
    plan = plan_of(list(SCORES))
    summary = report.summarise(plan, rows_of(SCORES))
    text = tables.markdown(plan, summary, rows_of(SCORES), wall_seconds=66, slots=2)
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    head, _, baseline, cells = lines[:4]
    assert len({len(line) for line in lines}) == 1
    row = summary[1]
    assert cells[head.index("Arm")] == "no fusion"
    assert cells[head.index(f"{METRIC} [95 % CI]")] == f"{row.mean:.4f} [{row.ci_low:.4f}, {row.ci_high:.4f}]"
    assert cells[head.index("Delta [95 % CI]")] == f"{row.delta:+.4f} [{row.delta_low:+.4f}, {row.delta_high:+.4f}]"
    assert cells[head.index("p (Holm)")] == f"{row.p_holm:.3f}"
    assert cells[head.index("Trainable parameters")] == "9,000"
    assert cells[head.index("Seconds")] == "11"
    assert cells[head.index("Paper mAP")] == "52.2"
    assert cells[head.index("Paper AP50")] == "-"
    assert baseline[head.index("Paper AP50")] == "74.0"
    assert baseline[head.index("Delta [95 % CI]")] == "-"
    assert "train.learning_rate=" in cells[1]
    assert "Table 5." in text
    assert "132 s together" in text
    assert "Warning" not in text


def test_one_seed_makes_no_claim() -> None:
    """A mean without an interval, no verdict, a warning."""
    plan, rows = plan_of(list(SCORES)), rows_of({arm: {0: by_seed[0]} for arm, by_seed in SCORES.items()})
    summary = report.summarise(plan, rows)
    text = tables.markdown(plan, summary, rows)
    assert {row.verdict for row in summary[1:]} == {"too few seeds"}
    assert "nan" not in text.lower()
    assert "| 0.2660 |" in text
    assert "Fewer than 3 seeds" in text


def test_a_missing_baseline_and_a_diverged_trial_are_warned_of() -> None:
    """NaN scores and absent arms never reach a mean."""
    rows = [row for row in rows_of(SCORES) if row.arm != "sigma"]
    rows[0] = replace(rows[0], metrics={METRIC: math.nan})
    plan = plan_of(list(SCORES))
    summary = report.summarise(plan, rows)
    text = tables.markdown(plan, summary, rows)
    assert "The baseline `sigma` has no result" in text
    assert "seed 0 finished without a finite test/miou" in text
    assert summary[1].n == 2
    assert all(row.verdict == "too few seeds" for row in summary[1:])


def test_arms_with_identical_scores_are_warned_of() -> None:
    """An edit that never reached the model looks like a perfect null result."""
    rows = rows_of(SCORES | {"fixed": SCORES["sigma"]})
    found = tables.warnings(plan_of(list(SCORES)), report.summarise(plan_of(list(SCORES)), rows), rows)
    assert found == ["Identical scores on every seed: `sigma`, `fixed`; check that their edits take effect."]


def test_the_terminal_shows_the_same_numbers() -> None:
    """Every arm with its mean and verdict, in 80 columns."""
    plan = plan_of(list(SCORES))
    summary = report.summarise(plan, rows_of(SCORES))
    sink = io.StringIO()
    Console(file=sink, width=80).print(tables.console(plan, summary))
    text = sink.getvalue()
    for row in summary:
        half = (row.ci_high - row.ci_low) / 2
        assert row.arm in text
        assert f"{row.mean:.4f} ±{half:.4f}" in text
    assert "…" not in text
    assert "9k" in text


def save_examples(folder: Path, arms: list[str]) -> dict[str, Path]:
    """Random images and masks of one size for every arm."""
    rng = np.random.default_rng(0)
    files = {}
    for arm in arms:
        shown = {name: rng.integers(0, 255, (5, 32, 48, 3)) for name in ("image", "target", "prediction")}
        files[arm] = folder / f"{arm}.safetensors"
        pictures.save_examples(files[arm], {name: values.astype(np.uint8) for name, values in shown.items()})
    return files


def test_write_leaves_every_file_and_only_whole_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All files exist, pictures are valid and not blank, no temporary file stays, the table is printed."""
    arms = list(SCORES)
    curves = {(arm, s): [(t, 0.3 - 1 / t) for t in (50, 100, 150)] for arm in arms for s in (0, 1, 2)}
    examples = save_examples(tmp_path, arms)
    folder = tmp_path / "results"
    files = report.write(plan_of(arms), with_failure(), curves, examples, folder, wall_seconds=9, slots=2)
    names = ["trials.parquet", "summary.parquet", "table.md"]
    names += [f"figures/{name}.png" for name in ("metric_vs_parameters", "training_curves", "predictions")]
    assert files == [folder / name for name in names]
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(files)
    for file in files[3:]:
        with Image.open(file) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert "no fusion" in capsys.readouterr().out


def test_a_report_without_results_is_still_a_report(tmp_path: Path) -> None:
    """Every trial failed: tables with reasons, no figures, none left from before."""
    stale = tmp_path / "figures" / "predictions.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    rows = [replace(FAILED, arm=arm, trial_key=arm) for arm in SCORES]
    files = report.write(plan_of(list(SCORES)), rows, {}, {}, tmp_path)
    assert [file.name for file in files] == ["trials.parquet", "summary.parquet", "table.md"]
    assert not stale.exists()
    assert (tmp_path / "table.md").read_text().count("did not finish") == 4


def test_importing_the_report_is_cheap() -> None:
    """The command line imports it before it answers."""
    code = "import sys, sigma_ray.report; "
    code += "assert not {'matplotlib', 'torch', 'scipy', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_plan_of_these_tests_is_a_real_one() -> None:
    """Its differences are those of its configurations."""
    plan = plan_of(["sigma", "fixed"])
    assert plan.differences()["sigma"] == ""
    assert "train.learning_rate" in plan.differences()["fixed"]
    assert "adapter.name" in flatten(to_dict(plan.trials[0].config))
