"""Is a file for `ray up` complete and safe? Everything here is found before any node is started or paid for."""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
TOKEN = "~/.ray/auth_token"
PLACEHOLDER = "REPLACE"


def check(path: str | Path, output: str | None = None) -> dict[str, Any]:
    """Require a cluster file with which `ray up` gives a cluster that studies can use; starts and contacts nothing.

    Args:
        path: of the file.
        output: a study's `--output`; must then lie on the storage that the file's nodes share.

    Returns:
        What the file describes: `name`, `provider`, `max_workers`, `shared` (folder that all nodes see).

    Raises:
        ValueError: rule, value received, way out.
    """
    path = Path(path)
    config = _read(path)
    _placeholders(path, config)
    config = _prepared(path, config)
    for name, command in _commands(config):
        _syntax(path, name, command)
    _file_mounts(path, config)
    _token(path, config)
    _starts(path, config)
    shared = _shared(path, config)
    if output is not None and not _below(output, shared):
        raise ValueError(
            f"--output must lie on the storage that all nodes share, {shared}, but got {output}: a trial that goes on "
            f"on another node would not find its checkpoint; use --output {shared}/results."
        )
    return {
        "name": config["cluster_name"],
        "provider": config["provider"]["type"],
        "max_workers": _max_workers(path, config),
        "shared": shared,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(
            f"a cluster file must be readable, but {path} is not ({error.strerror}); start from cluster.yaml."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"a cluster file must be YAML, but {path} is not ({reason}); correct it there.") from None
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        raise ValueError(
            f"a cluster file must be a mapping with cluster_name and provider, but {path} is not; start from "
            "cluster.yaml or cluster.local.yaml."
        )
    return config


def _placeholders(path: Path, config: Mapping[str, Any]) -> None:
    left = sorted({name for name, text in _texts(config) if PLACEHOLDER in text})
    if left:
        raise ValueError(
            f"a cluster file must have your own values, but {path} still says {PLACEHOLDER} in {', '.join(left)}; "
            "docs/cluster.md says what to put there."
        )


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text below `value`, with the dotted name of its field."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, name)
    elif isinstance(value, str):
        yield name, value


def _prepared(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """`config` with Ray's defaults, once it has passed Ray's own checks, those that `ray up` makes."""
    import click
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    if config["provider"].get("type") == "local" and not _addresses(config["provider"]):
        raise ValueError(
            f"a cluster of your own machines must name provider.head_ip and at least one of provider.worker_ips, but "
            f"{path} has {config['provider'].get('head_ip')!r} and {config['provider'].get('worker_ips')!r}; add them."
        )
    try:
        prepared = prepare_config(config)
        validate_config(prepared)
        return prepared
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "at the top"
        reason = error.message.replace(" ('", ": ").replace("' was unexpected)", "")
        raise ValueError(f"{path} must follow Ray's schema, but {where}: {reason[:200]}; correct it there.") from None
    except (click.ClickException, ValueError, RuntimeError, NotImplementedError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} must be a file that `ray up` takes, but Ray says: {reason}; correct it.") from None


def _addresses(provider: Mapping[str, Any]) -> bool:
    return bool(provider.get("head_ip") and provider.get("worker_ips")) or "coordinator_address" in provider


def _commands(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in COMMANDS:
        for command in config.get(name) or ():
            yield name, command


def _syntax(path: Path, name: str, command: str) -> None:
    parsed = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
    if parsed.returncode:
        reason = " ".join(parsed.stderr.split())
        raise ValueError(f"{name} of {path} must be shell commands, but bash says {reason}; correct: {command[:80]}")


def _file_mounts(path: Path, config: Mapping[str, Any]) -> None:
    for remote, local in config["file_mounts"].items():
        if remote != TOKEN and not Path(local).expanduser().exists():
            raise ValueError(f"file_mounts of {path} must name files that exist, but {local} (for {remote}) does not.")


def _token(path: Path, config: Mapping[str, Any]) -> None:
    """Ray's token must reach every node, be a secret, and be asked for."""
    create = "create it once with `ray get-auth-token --generate`"
    local = config["file_mounts"].get(TOKEN)
    if local is None:
        raise ValueError(
            f"file_mounts of {path} must carry Ray's token to every node, but has no {TOKEN}; add `{TOKEN}: {TOKEN}` "
            f"and {create}."
        )
    file = Path(local).expanduser()
    if not file.is_file() or not file.read_text().strip():
        raise ValueError(f"Ray's token must be in the file that {path} mounts, but {local} is missing; {create}.")
    if file.stat().st_mode & 0o077:
        raise ValueError(
            f"Ray's token must be readable by nobody else, but {local} has mode {file.stat().st_mode & 0o777:o}; "
            f"`chmod 600 {local}`."
        )
    if not any("RAY_AUTH_MODE=token" in command for _, command in _commands(config)):
        raise ValueError(
            f"every node must ask for Ray's token, but no command of {path} sets RAY_AUTH_MODE=token; export it in "
            "setup_commands as cluster.yaml does."
        )


def _starts(path: Path, config: Mapping[str, Any]) -> None:
    """Head and workers must really start Ray, reach each other, and leave the dashboard on loopback."""
    needed = {
        "head_start_ray_commands": ("ray start --head", "--autoscaling-config=~/ray_bootstrap_config.yaml"),
        "worker_start_ray_commands": ("ray start", "--address=$RAY_HEAD_IP"),
    }
    for name, parts in needed.items():
        text = " ".join(config.get(name) or ())
        for part in parts:
            if part not in text:
                raise ValueError(f"{name} of {path} must have {part!r}, but it is missing; see cluster.yaml.")
    everything = " ".join(command for _, command in _commands(config))
    open_to_all = re.search(r"--(?:dashboard-host|host)[= ](?!127\.|localhost)(\S+)", everything)
    if open_to_all:
        raise ValueError(
            f"dashboard and MLflow must listen on loopback only, but {path} has {open_to_all[0]!r}; leave it away, and "
            "browse through `ray attach FILE -p 8265 -p 5000`."
        )


def _shared(path: Path, config: Mapping[str, Any]) -> str:
    """The folder that the head's service is told all nodes share; every node must prove that it is mounted."""
    words = [word for command in config["head_start_ray_commands"] for word in shlex.split(command)]
    folder = words[words.index("--shared") + 1] if "--shared" in words[:-1] else None
    if folder is None or not PurePosixPath(folder).is_absolute():
        raise ValueError(
            f"head_start_ray_commands of {path} must say which folder all nodes share (an absolute path), but --shared "
            f"is {folder}; see cluster.yaml."
        )
    if not any("mountpoint" in command and folder in command for command in config["setup_commands"]):
        raise ValueError(
            f"setup_commands of {path} must prove on every node that shared storage is mounted, but nothing asks "
            f"`mountpoint -q {folder}`; see cluster.yaml."
        )
    return folder


def _below(output: str, folder: str) -> bool:
    path = PurePosixPath(output)
    return path.is_absolute() and ".." not in path.parts and path.is_relative_to(folder)


def _max_workers(path: Path, config: Mapping[str, Any]) -> int:
    head = config["head_node_type"]
    kinds = config["available_node_types"]
    local = config["provider"]["type"] == "local"
    most = sum(kind.get("max_workers", 0) for name, kind in kinds.items() if local or name != head)
    if most < 1:
        raise ValueError(f"a cluster must have workers, because its head trains nothing, but {path} allows none.")
    return min(most, config["max_workers"])
