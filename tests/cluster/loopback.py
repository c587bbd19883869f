"""Two nodes on this machine, 127.0.0.2 and 127.0.0.3, and the file with which `ray up` makes a cluster of them."""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD, WORKER = "127.0.0.2", "127.0.0.3"
SSHD = "/usr/sbin/sshd"
UNSHARE = ("unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child")


def skip_if_impossible() -> None:
    missing = [name for name in ("unshare", "rsync", "ssh", "ssh-keygen", "systemctl") if shutil.which(name) is None]
    missing += [name for name in (SSHD, "/lib/systemd/systemd") if not Path(name).exists()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: apt-get install openssh-server rsync systemd)")
    if subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to give processes a view of their own on processes and files (root)")


@dataclass
class Machines:
    """The nodes, and the laptop from which they are commanded.

    Attributes:
        folder: short, because sockets lie below it; holds what nodes share and what each keeps over a restart.
        ports: of this cluster, by name; nothing else uses them.
    """

    folder: Path
    ports: dict[str, int]
    nodes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def shared(self) -> Path:
        return self.folder / "shared"

    @property
    def laptop(self) -> Mapping[str, str]:
        """Environment of commands that a user types."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start(self, address: str) -> None:
        """Switch a node on, or on again."""
        command = [*UNSHARE, sys.executable, str(Path(__file__).with_name("node.py"))]
        with (self.folder / f"{address}.log").open("ab") as log:
            self.nodes[address] = subprocess.Popen(
                [*command, address, str(self.folder), sys.prefix], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def stop(self, address: str) -> None:
        """Cut a node's power: every process of it is killed."""
        node = self.nodes.pop(address)
        node.send_signal(signal.SIGKILL)
        node.wait()

    def cluster_file(self) -> Path:
        """cluster.local.yaml with these machines' addresses, paths and ports; its commands stay as they are."""
        port = {name: str(number) for name, number in self.ports.items()}
        text = (ROOT / "cluster.local.yaml").read_text()
        head = f"--node-ip-address={HEAD} --dashboard-agent-listen-port={port['head_agent']}"
        head += f" --dashboard-port={port['dashboard']} --ray-client-server-port={port['client']}"
        changes = {
            "cluster_name: sigma-ray-local": f"cluster_name: {self.folder.name}",
            "min_workers: 2": "min_workers: 1",
            "max_workers: 2": "max_workers: 1",
            "REPLACE-head": HEAD,
            "[REPLACE-worker-1, REPLACE-worker-2]": f"[{WORKER}]",
            "ssh_user: REPLACE-user": f"ssh_user: {getpass.getuser()}\n  ssh_proxy_command: {self.folder}/connect %h",
            "~/.ssh/id_ed25519": f"{self.folder}/key",
            "~/.ray/auth_token: ~/.ray/auth_token": f"~/.ray/auth_token: {self.folder}/token",
            "/mnt/sigma_ray --": f"/mnt/sigma_ray --port {port['mlflow']} --",
            "/mnt/sigma_ray": str(self.shared),
            "--port=6379": f"--port={port['ray']} {head}",
            "$RAY_HEAD_IP:6379": f"$RAY_HEAD_IP:{port['ray']} --node-ip-address={WORKER} "
            f"--dashboard-agent-listen-port={port['worker_agent']}",
        }
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        path = self.folder / "cluster.yaml"
        path.write_text(text)
        return path

    def type(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run what a user would type on the laptop."""
        return subprocess.run(
            command,
            env=self.laptop,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@contextmanager
def machines() -> Iterator[Machines]:
    """Both nodes, switched on; whatever happens, nothing of them is left."""
    folder = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    made = Machines(folder, _free_ports("ray", "dashboard", "client", "mlflow", "head_agent", "worker_agent"))
    try:
        _ssh(made)
        made.shared.mkdir()
        for address in (HEAD, WORKER):
            made.start(address)
        yield made
    finally:
        for address in list(made.nodes):
            made.stop(address)
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _ssh(made: Machines) -> None:
    """Keys and configuration of a private sshd, and the command that reaches it."""
    folder = made.folder
    for name in ("key", "host_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv is not None
    # How this machine reaches packages is how its nodes do.
    names = [name for name in os.environ if re.match("UV_(?!PROJECT)|PIP_|SSL_|.*_CA_BUNDLE$|.*_(proxy|PROXY)$", name)]
    packages = " ".join(f'"{name}={os.environ[name]}"' for name in names)
    (folder / "sshd_config").write_text(f"""
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
AuthenticationMethods publickey
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
SetEnv PATH={Path(uv).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin {packages}
""")
    # `ray up` does not hand ssh_proxy_command on to the head, which reaches the workers by itself.
    (folder / "ssh_config").write_text(f"Host {WORKER}\n  ProxyCommand {folder}/connect %h\n")
    connect = folder / "connect"
    connect.write_text(f"""#!{sys.executable} -S
import os, socket, sys, threading
with socket.socket(socket.AF_UNIX) as node:
    node.connect("{folder}/" + sys.argv[1] + ".ssh")
    def send():
        while data := os.read(0, 65536):
            node.sendall(data)
        node.shutdown(socket.SHUT_WR)
    threading.Thread(target=send, daemon=True).start()
    while data := node.recv(65536):
        while data:
            data = data[os.write(1, data):]
""")
    connect.chmod(0o755)
    token = folder / "token"
    token.write_text(os.urandom(32).hex())
    token.chmod(0o600)


def _free_ports(*names: str) -> dict[str, int]:
    sockets = {name: socket.create_server(("", 0)) for name in names}
    ports = {name: opened.getsockname()[1] for name, opened in sockets.items()}
    for opened in sockets.values():
        opened.close()
    return ports
