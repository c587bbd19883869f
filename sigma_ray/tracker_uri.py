"""Tracking store addresses: which are accepted, whether they answer, how to show them. Imports no MLflow."""

import os
import shlex
import socket
from pathlib import Path
from urllib.parse import urlsplit

from sigma_ray.redaction import redact

SQLITE = "sqlite:///"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
TIMEOUT_S = 2.5
WAY_OUT = "use --tracking-uri sqlite:///mlflow.db or the address of a running `mlflow server`"


def check(uri: str) -> None:
    """Require a tracking store that can be used, within about 3 s.

    Raises:
        ValueError: in one line, without the password, when the address is not supported or does not answer.
    """
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme in ("http", "https"):
        _check_server(uri)
    elif uri.startswith("sqlite:"):
        _check_sqlite(uri)
    elif scheme in DATABASE_PORTS:
        _check_database(uri, DATABASE_PORTS[scheme])
    else:
        raise ValueError(
            f"The tracking store must be http(s)://, sqlite:/// or a database address, but got "
            f"{redact(uri)!r} (MLflow no longer writes plain folders); {WAY_OUT}."
        )


def database_file(uri: str) -> Path | None:
    """Absolute path of a sqlite store's file; None for any other store."""
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0]).absolute()


def absolute(uri: str) -> str:
    """The same store, named independently of the working directory."""
    file = database_file(uri)
    return uri if file is None else f"{SQLITE}{file}"


def mlflow_ui_command(uri: str) -> str:
    """What to type to look at a store; for a server simply its address."""
    if uri.startswith(("http://", "https://")):
        return redact(uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(redact(uri))}"


def _check_server(uri: str) -> None:
    """GET /health, which every MLflow server answers without a login."""
    import requests

    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise _unreachable(uri, type(error).__name__) from None
    if answer.status_code != 200:
        raise _unreachable(uri, f"/health answered {answer.status_code}, so this may not be an MLflow server")


def _check_sqlite(uri: str) -> None:
    """Require a database file that exists and can be written, or a folder in which it can be created."""
    file = database_file(uri)
    if file is None or file.name in ("", ":memory:"):
        raise ValueError(f"A sqlite tracking store must name a file, but got {redact(uri)!r}; {WAY_OUT}.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as opened:
            header = opened.read(16)
    except FileNotFoundError:
        header = b""
    except OSError as error:
        raise _unreachable(uri, error.strerror or type(error).__name__) from None
    if header and header != b"SQLite format 3\0":
        raise _unreachable(uri, "the file is no sqlite database")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise _unreachable(uri, "no permission to write there")


def _check_database(uri: str, port: int) -> None:
    """Open a connection to the database's port; whether the login is right shows at the first use."""
    parts = urlsplit(uri)
    try:
        address = (parts.hostname or "localhost", parts.port or port)
        socket.create_connection(address, timeout=TIMEOUT_S).close()
    except OSError as error:
        raise _unreachable(uri, str(error)) from None


def _unreachable(uri: str, reason: str) -> ValueError:
    """The error for a store that cannot be used, in one line."""
    return ValueError(f"The tracking store {redact(uri)} cannot be used ({reason}); start it, or {WAY_OUT}.")
