"""A tracking server that lies: nothing is written outside of the folder for downloads."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from mlflow.exceptions import MlflowException

from sigma_ray.mlflow_client import connect
from sigma_ray.mlflow_files import download


class Hostile(BaseHTTPRequestHandler):
    """Answers every request of MLflow's client as `listing` has it."""

    listing: ClassVar[list[dict]] = []

    def do_GET(self) -> None:
        """Run, listing, or content."""
        if "/runs/get" in self.path:
            info = {"run_id": "r", "run_uuid": "r", "experiment_id": "1", "status": "FINISHED"}
            info |= {"start_time": 1, "lifecycle_stage": "active", "artifact_uri": "mlflow-artifacts:/1/r/artifacts"}
            self._answer(json.dumps({"run": {"info": info, "data": {}}}).encode())
        elif "/artifacts?" in self.path:
            # The folder lists what it should not; what lies below that is a file.
            self._answer(json.dumps({"files": self.listing if "evil" not in self.path else []}).encode())
        else:
            self._answer(b"evil content")

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[str]:
    """The hostile server's address."""
    one = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{one.server_address[1]}"
    one.shutdown()
    one.server_close()


@pytest.mark.parametrize(
    "path", ["../evil", "../../evil", "/tmp/evil", "model.safetensors/../../../evil", "%2e%2e/%2e%2e/evil", "..\\evil"]
)
def test_listings_cannot_name_files_outside(server: str, tmp_path: Path, path: str) -> None:
    """The file that was asked for turns out to be a folder, with such a file in it."""
    Hostile.listing = [{"path": path, "is_dir": False, "file_size": 12}]
    downloads = tmp_path / "a" / "b" / "downloads"
    try:
        found = download(connect(server), "r", "model.safetensors", downloads)
        assert found.resolve().is_relative_to(downloads.resolve())
    except (MlflowException, ValueError):
        pass
    assert all(file.is_relative_to(downloads) for file in tmp_path.rglob("*") if file.is_file())
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("run_id", ["../../evil", "/tmp/evil", "..", ""])
def test_run_ids_cannot_name_folders_outside(server: str, tmp_path: Path, run_id: str) -> None:
    """Run ids come from the server too."""
    with pytest.raises(ValueError, match="must name files below"):
        download(connect(server), run_id, "model.safetensors", tmp_path / "downloads")
    assert not list(tmp_path.iterdir())


def test_an_honest_answer_is_downloaded(server: str, tmp_path: Path) -> None:
    """What the tests above would see if nothing were refused."""
    Hostile.listing = []
    found = download(connect(server), "r", "model.safetensors", tmp_path / "downloads")
    assert found == tmp_path / "downloads" / "r" / "model.safetensors"
    assert found.read_bytes() == b"evil content"
