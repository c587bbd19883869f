"""A node of a cluster on this machine: processes, home, temporary files and services of its own, reached by ssh.

Run as root in process and mount namespaces of its own (`unshare --pid --mount`), this is the node's first process. It
lays the node's files over those of the machine, starts systemd for the user, and answers each connection to a socket in
the file system with an `sshd -i`: no port is opened. When it ends, the kernel ends every process of the node.
"""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path


def sh(command: str) -> None:
    subprocess.run(["bash", "-euc", command], check=True)


def mounts(folder: Path, disk: Path, environment: Path) -> None:
    """The machine's files, with a layer over home and virtual environment that only this node sees.

    What lasts over a restart of the node lies in `disk`; the rest is in memory.
    """
    home, shared = Path.home(), folder / "shared"
    for name, place in (("home", home), ("environment", environment)):
        upper, work = disk / name, disk / f"{name}.work"
        layers = f"lowerdir={place},upperdir={upper},workdir={work}"
        sh(f"mkdir -p {upper} {work} && mount -t overlay -o {layers} none {place}")
    sh(f"mkdir -p {home}/sigma_ray/.venv && mount --bind {environment} {home}/sigma_ray/.venv")
    sh(f"mkdir -p -m 700 {home}/.ssh && cp {folder}/ssh_config {home}/.ssh/config")
    sh(f"mount --bind {shared} {shared}")
    sh("mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm")
    sh("mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/sshd /run/user/$(id -u)")
    sh("mount -t tmpfs tmpfs /var/lib/systemd && mkdir /var/lib/systemd/linger")
    sh("touch /var/lib/systemd/linger/$(id -un)")


def serve(path: Path, config: Path) -> None:
    """One `sshd -i` per connection, and no zombie left of any process that this node has lost."""
    threading.Thread(target=reap, daemon=True).start()
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection:
                os.posix_spawn(
                    "/usr/sbin/sshd",
                    ["/usr/sbin/sshd", "-i", "-f", str(config)],
                    {},
                    file_actions=[(os.POSIX_SPAWN_DUP2, connection.fileno(), descriptor) for descriptor in (0, 1)],
                )


def reap() -> None:
    while True:
        os.waitid(os.P_ALL, 0, os.WEXITED)


def main() -> None:
    name, tmp, environment = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    mounts(tmp, tmp / f"{name}.disk", environment)
    runtime = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}", "HOME": str(Path.home()), "PATH": os.environ["PATH"]}
    subprocess.Popen(["/lib/systemd/systemd", "--user"], env=runtime, stdin=subprocess.DEVNULL)
    serve(tmp / f"{name}.ssh", tmp / "sshd_config")


if __name__ == "__main__":
    main()
