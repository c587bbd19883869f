"""The systemd user unit that keeps a cluster's head alive: installed by `ray up`, started again with the node."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

UNIT = "sigma-ray-head.service"
LOG = "sigma_ray_head.log"
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the head serves.

    Attributes:
        shared: folder on the storage that all nodes share; artifacts go to its mlflow/, results are in its results/.
        port: of MLflow's server, on loopback.
    """

    shared: str
    port: int = 5000


def start(options: Options, command: Sequence[str]) -> int:
    """Install the unit, start it, and wait until both services answer; the log's end goes to stderr if they do not."""
    shared_folder(options.shared)
    os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    _linger()
    systemctl("stop", UNIT, check=False)
    folder = Path.home() / ".config" / "systemd" / "user"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNIT).write_text(unit(options, command, os.environ | _autoscaler(command)))
    log = Path.home() / LOG
    log.unlink(missing_ok=True)
    systemctl("daemon-reload")
    if systemctl("start", UNIT, check=False):
        systemctl("stop", UNIT, check=False)
        lines = log.read_text().splitlines()[-20:] if log.exists() else []
        raise ValueError("\n".join(["MLflow and Ray must start on the head, but they did not:", *lines]))
    systemctl("enable", UNIT)
    print(f"MLflow answers on 127.0.0.1:{options.port}, Ray on this node; both come back with it. Log: ~/{LOG}")
    return 0


def cluster_config(command: Sequence[str]) -> dict[str, Any]:
    """The file of the autoscaler that the command starts, as `ray up` left it on the head; empty without one."""
    files = [word.partition("=")[2] for word in command if word.startswith("--autoscaling-config=")]
    return yaml.safe_load(Path(files[0]).expanduser().read_text()) if files else {}


def _autoscaler(command: Sequence[str]) -> dict[str, str]:
    """Ray 2.60's second autoscaler, its default, never starts workers of provider local: it misses the head."""
    local = cluster_config(command).get("provider", {}).get("type") == "local"
    return {"RAY_enable_autoscaler_v2": "0"} if local else {}


def unit(options: Options, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The unit's text; what `ray up` exports to this command stays known to it after a restart."""
    kept = {name: environment[name] for name in sorted(environment) if _wanted(name)}
    arguments = [
        sys.executable,
        "-m",
        "trainables.head",
        "run",
        "--shared",
        options.shared,
        "--port",
        str(options.port),
    ]
    return f"""[Unit]
Description=MLflow and Ray on the head of a sigma_ray cluster

[Service]
Type=notify
ExecStart={" ".join(_quoted(word).replace("$", "$$") for word in [*arguments, "--", *command])}
Environment={" ".join(_quoted(f"{name}={value}") for name, value in kept.items())}
WorkingDirectory=%h
Restart=on-failure
RestartSec=5
TimeoutStartSec={START_TIMEOUT_S}
TimeoutStopSec={2 * STOP_TIMEOUT_S}
KillMode=mixed
LimitNOFILE=65536
StandardOutput=append:%h/{LOG}
StandardError=append:%h/{LOG}

[Install]
WantedBy=default.target
"""


def _wanted(name: str) -> bool:
    secret = "TOKEN" in name or "PASSWORD" in name
    return not secret and (name == "PATH" or name.startswith(("RAY_", "SIGMA_RAY_", "MLFLOW_")))


def _quoted(word: str) -> str:
    """One word of a unit file, in which systemd reads backslashes, quotes and %."""
    for special, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        word = word.replace(special, escaped)
    return f'"{word}"'


def _linger() -> None:
    """Let the user's services run from the node's start, not only while somebody is logged in."""
    user = psutil.Process().username()
    if not Path("/var/lib/systemd/linger", user).exists():
        command = ["loginctl", "enable-linger", user]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            subprocess.run(["sudo", "-n", *command], check=False)
    if not Path("/var/lib/systemd/linger", user).exists():
        raise ValueError(
            f"services of {user} must start with the head node, but loginctl may not allow it; run `sudo loginctl "
            f"enable-linger {user}` there once."
        )


def systemctl(*arguments: str, check: bool = True) -> int:
    """Run `systemctl --user`; its exit code.

    Raises:
        ValueError: it failed, with `check`.
    """
    done = subprocess.run(["systemctl", "--user", *arguments], check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise ValueError(
            f"the head node must run services of systemd for its user, but `systemctl --user {' '.join(arguments)}` "
            f"failed: {' '.join(done.stderr.split())}"
        )
    return done.returncode


def shared_folder(folder: str) -> Path:
    """`folder`, proven to be a mount that this user can write.

    Raises:
        ValueError: it is not; every node would then have a folder of its own.
    """
    path = Path(folder)
    mounts = {part.mountpoint for part in psutil.disk_partitions(all=True)}
    if not path.is_absolute() or str(path) not in mounts or not os.access(path, os.W_OK):
        raise ValueError(
            f"--shared must be an absolute path on which the storage of all nodes is mounted, writable, but {folder} "
            "is not; mount it on every node."
        )
    return path
