"""The command line as a user meets it: every call is a process of its own."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainables import cli

FLAGS = {
    "--profile",
    "--seeds",
    "--set",
    "--data-root",
    "--weights",
    "--address",
    "--tracking-uri",
    "--output",
    "--jobs",
    "--dry-run",
}
STUDIES = ("ablate_bottleneck", "ablate_kernels", "ablate_modules")


def run(
    *arguments: str, cwd: Path, study: str = "ablate_bottleneck", timeout: float = 120
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"studies.{study}", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)


def test_flags_are_frozen():
    import dataclasses

    assert {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(cli.Flags)} == FLAGS


@pytest.mark.parametrize(
    ("study", "profile"),
    [*((study, "demo") for study in STUDIES), (STUDIES[0], "paper")],
)
def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, study, profile):
    result = run("--dry-run", "--profile", profile, study=study, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "fixed" in result.stdout and "full" in result.stdout and "3 seeds" in result.stdout
    assert not list(tmp_path.iterdir())


def test_import_help_and_dry_run_load_nothing_heavy(tmp_path):
    code = (
        "import sys; import studies.ablate_bottleneck as s; from sigma_ray.study import make_plan; "
        "make_plan(s.STUDY, 'demo', num_seeds=3); "
        "print(sorted({'torch', 'timm', 'ray', 'mlflow', 'matplotlib', 'mmseg'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


REFUSED = {
    "unknown adapter": (["--set", "adapter=sigmoid"], "sigmoid"),
    "unknown study setting": (["--set", "train.steps=3"], "train.steps"),
    "even kernel": (["--set", "adapter.kernel_sizes=3,4"], "3,4"),
    "bottleneck 0": (["--set", "adapter.bottleneck_dim=0"], "bottleneck_dim"),
    "image size no multiple of the patch": (["--set", "data.image_size=60,64"], "60x64"),
    "no data folder given": (["--set", "data=folder"], "root"),
    "missing data folder": (["--set", "data=folder", "--data-root", "no/such/folder"], "no/such/folder"),
    "missing weights": (["--weights", "no/such/file.safetensors"], "no/such/file"),
    "unreachable Ray": (["--address", "127.0.0.1:1"], "127.0.0.1:1"),
    "malformed Ray address": (["--address", "somewhere"], "somewhere"),
    "unreachable tracker": (["--tracking-uri", "http://127.0.0.1:1"], "127.0.0.1:1"),
    "unsupported tracker": (["--tracking-uri", "mlruns"], "mlruns"),
    "no seeds": (["--seeds", "0"], "--seeds"),
    "no trial at a time": (["--jobs", "0"], "--jobs"),
    "unknown profile": (["--profile", "huge"], "huge"),
    "set without value": (["--set", "adapter"], "PATH=VALUE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, case):
    arguments, mentioned = REFUSED[case]
    result = run(*arguments, study="ablate_modules", cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ") and mentioned in lines[0]


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    result = run(cwd=tmp_path)
    assert result.returncode == 2 and "--output" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.slow
def test_weights_that_do_not_fit(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"blocks.0.norm1.weight": torch.zeros(7)}, tmp_path / "other.safetensors")
    result = run("--weights", "other.safetensors", cwd=tmp_path)
    assert result.returncode == 2 and "do not fit" in result.stderr and result.stderr.strip().count("\n") == 0


def test_mask_ids_out_of_range(tmp_path):
    import numpy as np
    from PIL import Image

    for split in ("training", "validation", "test"):
        for kind in ("images", "annotations"):
            (tmp_path / "set" / kind / split).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / f"set/images/{split}/{index}.png")
            Image.fromarray(np.full((16, 16), 9, np.uint8)).save(tmp_path / f"set/annotations/{split}/{index}.png")
    result = run(
        "--set",
        "data=folder",
        "--data-root",
        "set",
        "--set",
        "data.num_classes=3",
        "--set",
        "data.image_size=16,16",
        cwd=tmp_path,
    )
    assert result.returncode == 2 and "9" in result.stderr and result.stderr.strip().count("\n") == 0


def test_second_invocation_on_the_same_folder_is_refused(tmp_path):
    from filelock import FileLock

    folder = tmp_path / "results" / "ablate_bottleneck"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        started = time.monotonic()
        result = run(cwd=tmp_path)
    assert result.returncode == 2 and "already running" in result.stderr and time.monotonic() - started < 60
