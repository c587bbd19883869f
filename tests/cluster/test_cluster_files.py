import copy
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainables.cluster_files import check

ROOT = Path(__file__).parents[2]
VALUES = {
    "REPLACE-head": "10.0.0.1",
    "REPLACE-worker-1": "10.0.0.2",
    "REPLACE-worker-2": "10.0.0.3",
    "ami-REPLACE": "ami-0123456789abcdef0",
    "fs-REPLACE": "fs-0123456789abcdef0",
    "REPLACE-user": "ubuntu",
}


def filled(name: str) -> dict[str, Any]:
    text = (ROOT / name).read_text()
    for placeholder, value in VALUES.items():
        text = text.replace(placeholder, value)
    return yaml.safe_load(text)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a token, in which the project is the working directory."""
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return tmp_path


def written(home: Path, config: dict[str, Any]) -> Path:
    path = home / "file.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("name", "provider", "workers"), [("cluster.yaml", "aws", 8), ("cluster.local.yaml", "local", 2)]
)
def test_shipped_files_are_complete_once_filled_in(home, name, provider, workers):
    found = check(written(home, filled(name)), output="/mnt/sigma_ray/results")
    cluster = "sigma-ray" if provider == "aws" else "sigma-ray-local"
    assert found == {"name": cluster, "provider": provider, "max_workers": workers, "shared": "/mnt/sigma_ray"}


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.local.yaml"])
def test_shipped_files_ask_for_the_users_values(home, name):
    with pytest.raises(ValueError, match="must have your own values"):
        check(ROOT / name)


def without(key: str):
    return lambda config: config.pop(key)


def put(path: str, value: Any):
    *parents, last = path.split("/")

    def edit(config: dict[str, Any]) -> None:
        for parent in parents:
            config = config[parent]
        config[last] = value

    return edit


MOUNTS = "file_mounts"
START = "head_start_ray_commands"
BAD = {
    "no provider": (without("provider"), "mapping with cluster_name and provider"),
    "unknown provider": (put("provider/type", "clouds"), "Unsupported node provider: clouds"),
    "wrong key": (put("max_wokers", 3), "at the top.*max_wokers"),
    "wrong type": (put("idle_timeout_minutes", "ten"), "idle_timeout_minutes: 'ten' is not of type 'number'"),
    "missing head": (without("head_node_type"), "head_node_type"),
    "head of no type": (put("head_node_type", "boss"), "head_node_type.*must be one of"),
    "no workers": (put("available_node_types/gpu/max_workers", 0), "must have workers"),
    "min above max": (put("available_node_types/gpu/min_workers", 9), "max_workers"),
    "missing mount": (put(MOUNTS, {"~/data": "/no/such/data"}), "must name files that exist, but /no/such/data"),
    "no token mount": (put(MOUNTS, {"~/sigma_ray": "."}), "must carry Ray's token"),
    "missing token": (put(MOUNTS, {"~/.ray/auth_token": "/no/token"}), "/no/token is missing; create it once"),
    "syntax": (put("worker_setup_commands", ["if true; then"]), "worker_setup_commands.*bash says"),
    "head without autoscaler": (put(START, ["ray start --head --shared /x"]), "--autoscaling-config"),
    "worker without head": (put("worker_start_ray_commands", ["ray start --block"]), r"--address=\$RAY_HEAD_IP"),
    "open dashboard": (
        put("worker_setup_commands", ["echo ray start --dashboard-host=0.0.0.0"]),
        "must listen on loopback only, but .*--dashboard-host=0.0.0.0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_one_clear_error(home, case):
    edit, message = BAD[case]
    config = filled("cluster.yaml")
    edit(config)
    with pytest.raises(ValueError, match=message) as caught:
        check(written(home, config))
    assert "\n" not in str(caught.value)


def test_local_machines_need_addresses(home):
    config = filled("cluster.local.yaml")
    del config["provider"]["head_ip"]
    with pytest.raises(ValueError, match=r"must name provider\.head_ip"):
        check(written(home, config))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("--shared /mnt/sigma_ray", "", "must say which folder all nodes share"),
    ("--shared /mnt/sigma_ray", "--shared results", "absolute path"),
    ("mountpoint -q /mnt/sigma_ray", "true", "must prove on every node that shared storage is mounted"),
    ("RAY_AUTH_MODE=token", "OTHER=1", "every node must ask for Ray's token"),
])  # fmt: skip
def test_commands_that_lost_a_safeguard_are_refused(home, old, new, message):
    text = yaml.safe_dump(filled("cluster.yaml"), width=10_000)
    assert old in text
    path = home / "file.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        check(path)


def test_a_token_that_others_can_read_is_refused(home):
    (home / ".ray" / "auth_token").chmod(0o644)
    with pytest.raises(ValueError, match="has mode 644"):
        check(written(home, filled("cluster.yaml")))


@pytest.mark.parametrize("output", ["results", "/home/me/results", "/mnt/sigma_ray/../results", "/mnt/sigma_ray_2"])
def test_output_beside_the_shared_storage_is_refused(home, output):
    with pytest.raises(ValueError, match="use --output /mnt/sigma_ray/results"):
        check(written(home, filled("cluster.yaml")), output=output)


def test_unreadable_files_are_refused(home):
    with pytest.raises(ValueError, match="No such file"):
        check(home / "nowhere.yaml")
    (home / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="must be YAML"):
        check(home / "broken.yaml")


def test_both_files_run_the_same_commands():
    aws, local = (yaml.safe_load((ROOT / name).read_text()) for name in ("cluster.yaml", "cluster.local.yaml"))
    shared = ["setup_commands", "worker_setup_commands", START, "worker_start_ray_commands", MOUNTS, "rsync_exclude"]
    for key in shared:
        assert aws[key] == local[key], key


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.local.yaml"])
def test_prepared_twice_is_prepared_once(name):
    """The head's autoscaler prepares again what `ray up` prepared."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    once = prepare_config(copy.deepcopy(filled(name)))
    validate_config(once)
    if name == "cluster.local.yaml":
        assert prepare_config(copy.deepcopy(once)) == once
        assert once["available_node_types"]["local.cluster.node"]["min_workers"] == 2
    else:
        kinds = once["available_node_types"]
        assert kinds["head"]["resources"] == {"CPU": 0} and kinds["head"]["max_workers"] == 0
        assert kinds["gpu"]["min_workers"] == 0 and kinds["gpu"]["node_config"]["InstanceMarketOptions"]
        assert kinds["gpu"]["node_config"]["ImageId"] == kinds["head"]["node_config"]["ImageId"]


def run_setup(index: int, home: Path, *, shared: str = "/mnt/sigma_ray") -> subprocess.CompletedProcess[str]:
    command = filled("cluster.yaml")["setup_commands"][index].replace("/mnt/sigma_ray", shared)
    return subprocess.run(
        ["bash", "-c", command], env={**os.environ, "HOME": str(home)}, capture_output=True, text=True, check=False
    )


def test_a_node_without_the_shared_storage_says_so_and_does_not_join(home):
    refused = run_setup(0, home, shared=str(home))
    assert refused.returncode == 1 and f"error: {home} must be storage that all nodes share" in refused.stderr
    assert run_setup(0, home, shared="/dev/shm").returncode == 0


def test_a_second_setup_of_a_node_changes_nothing(home):
    (home / ".bashrc").write_text("# mine\n")
    for _ in range(2):
        assert run_setup(1, home).returncode == 0
    mine, added = (home / ".bashrc").read_text().splitlines()
    assert mine == "# mine" and added.startswith("export RAY_AUTH_MODE=token PATH=~/sigma_ray/.venv/bin:")
