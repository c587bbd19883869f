import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainables import head, head_unit
from trainables.head_unit import Options

RAY = ["ray", "start", "--head", "--port=6379"]
OPTIONS = Options(shared="/mnt/sigma_ray", port=5000)
ENVIRONMENT = {
    "PATH": "/somewhere/bin:/usr/bin",
    "RAY_AUTH_MODE": "token",
    "RAY_OVERRIDE_RESOURCES": '{"CPU":0,"share":"100 %"}',
    "RAY_AUTH_TOKEN": "secret",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "EDITOR": "vi",
}


def field(unit: str, name: str) -> list[str]:
    (line,) = [line for line in unit.splitlines() if line.startswith(f"{name}=")]
    return [word.replace("%%", "%") for word in shlex.split(line.partition("=")[2])]


def test_the_unit_keeps_what_ray_up_exported_and_no_secret():
    unit = head_unit.unit(OPTIONS, RAY, ENVIRONMENT)
    assert field(unit, "Environment") == [
        "PATH=/somewhere/bin:/usr/bin",
        "RAY_AUTH_MODE=token",
        'RAY_OVERRIDE_RESOURCES={"CPU":0,"share":"100 %"}',
    ]
    assert field(unit, "ExecStart")[1:] == [
        *["-m", "trainables.head", "run", "--shared", "/mnt/sigma_ray", "--port", "5000", "--", *RAY]
    ]
    assert "secret" not in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_understands_the_unit(tmp_path):
    path = tmp_path / head_unit.UNIT
    path.write_text(head_unit.unit(OPTIONS, [*RAY, 'a"b', "c%d", "e$f"], ENVIRONMENT))
    checked = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and head_unit.UNIT not in checked.stderr, checked.stderr


@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), min_size=1))
def test_any_word_survives_the_quoting(word):
    assert [part.replace("%%", "%") for part in shlex.split(head_unit._quoted(word))] == [word]


@pytest.mark.parametrize(("arguments", "message"), [
    (["start", "--shared", "/mnt"], "after -- must come `ray start --head"),
    (["start", "--shared", "/mnt", "--", "ray", "stop"], "but got 'ray stop'"),
    (["begin", "--", *RAY], "must be start or run, but got 'begin'"),
    (["run", "--shared", "relative", "--", *RAY], "--shared must be an absolute path on which"),
])  # fmt: skip
def test_wrong_commands_are_refused_in_one_line(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["head", *arguments])
    with pytest.raises(SystemExit) as ended:
        head.main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_shared_storage_must_be_a_mount_of_its_own(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is not; mount it on every node"):
        head_unit.shared_folder(str(tmp_path))
    mounted = [SimpleNamespace(mountpoint=str(tmp_path))]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounted)
    assert head_unit.shared_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(("provider", "expected"), [("local", {"RAY_enable_autoscaler_v2": "0"}), ("aws", {})])
def test_the_autoscaler_is_one_that_the_provider_works_with(tmp_path, provider, expected):
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump({"provider": {"type": provider}}))
    assert head_unit._autoscaler([*RAY, f"--autoscaling-config={path}"]) == expected


def test_mlflow_listens_on_loopback_with_artifacts_on_shared_storage(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    command = " ".join(head.mlflow_command(OPTIONS, Path("/mnt/sigma_ray")))
    assert "--host 127.0.0.1 --port 5000" in command
    assert f"sqlite:///{tmp_path}/mlflow.db --artifacts-destination /mnt/sigma_ray/mlflow" in command


def test_a_ray_stop_is_seen_while_it_runs(tmp_path):
    assert not head._is_being_stopped()
    program = tmp_path / "ray"
    program.write_text("import time; time.sleep(60)")
    stop = subprocess.Popen([sys.executable, str(program), "stop"])
    try:
        assert head._is_being_stopped()
    finally:
        stop.kill()
        stop.wait()
    assert not head._is_being_stopped()


@pytest.mark.parametrize(("stopping", "code"), [(True, 0), (False, 1)])
def test_only_a_ray_stop_keeps_the_services_from_coming_back(monkeypatch, tmp_path, stopping, code):
    asked = []
    monkeypatch.setattr(head, "systemctl", lambda *arguments, **_: asked.append(arguments))
    monkeypatch.setattr(head, "_is_being_stopped", lambda: stopping)
    monkeypatch.setattr(head, "_has_gcs", lambda ray: True)
    mlflow, ray = (subprocess.Popen(["sleep", seconds]) for seconds in ("60", "1"))  # Ray ends by itself
    try:
        assert head._serve(mlflow, ray, "", tmp_path, can_grow=True) == code
    finally:
        mlflow.kill()
        mlflow.wait()
    assert asked == ([("disable", head.UNIT)] if stopping else [])
