"""Files of runs: into MLflow's artifact store, and back."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sigma_ray.mlflow_client import is_final
from sigma_ray.paths import inside
from sigma_ray.spool import Refused
from sigma_ray.uploads import LOST_TAG, WAITING_TAG, Upload, Uploads

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

MAX_TAG_CHARS = 4000


class Files:
    """The files of one study's runs; what the store does not take waits in `uploads` and holds nothing up."""

    def __init__(self, client: Callable[[], "MlflowClient"], folder: Path) -> None:
        """Go on with what waits in `folder`; `client` connects on first use."""
        self._client, self._folder = client, folder
        self.uploads = Uploads(folder, self._send, self._say)

    def store(self, run_id: str, paths: Iterable[str], below: str = "") -> None:
        """Store files `below` a folder of the run, and folders by their names; note in the run what is gone.

        Raises:
            Exception: the tracking store itself does not answer.
        """
        for path in paths:
            if Path(path).exists():
                self._store(Upload(run_id=run_id, path=path, below=below))
            else:
                logger.warning("The file %s is gone and could not be stored in MLflow run %s.", path, run_id)
                self._say(run_id, LOST_TAG, Path(path).name)

    def store_text(self, run_id: str, name: str, content: str) -> None:
        """Store `content` as the file `name` of the run; raises what `store` raises."""
        self._store(Upload(run_id=run_id, path=name, below="", content=content))

    def download(self, run_id: str, artifact_path: str, folder: Path) -> Path:
        """Local path of an artifact: of the file that waits here or lies in a local store, else of a copy in `folder`.

        Raises:
            FileNotFoundError: a local store does not have it.
            ValueError: the store names a place outside of `folder`.
        """
        for upload in self.uploads.waiting():
            if (upload.run_id, upload.artifact) == (run_id, artifact_path) and upload.content is None:
                return Path(upload.path)
        return download(self._client(), run_id, artifact_path, folder)

    def _store(self, upload: Upload) -> None:
        """Send a file now, or let it wait: behind others that wait the store is not asked again."""
        if self.uploads.waiting():
            self.uploads.add(upload)
            return
        try:
            self._send(upload)
        except Refused:
            raise
        except Exception as error:  # whatever the artifact store's client raises
            self.uploads.add(upload, error)

    def _send(self, upload: Upload) -> None:
        client, path = self._client(), Path(upload.path)
        try:
            if upload.content is not None:
                client.log_text(upload.run_id, upload.content, upload.artifact)
            elif path.is_dir():
                client.log_artifacts(upload.run_id, upload.path, path.name)
            else:
                client.log_artifact(upload.run_id, upload.path, upload.below or None)
        except Exception as error:
            if is_final(error):
                raise Refused(f"{upload.artifact} of run {upload.run_id}: {error}") from error
            raise

    def _say(self, run_id: str, tag: str, text: str) -> None:
        """Set a tag of a run, or remove it where `text` is empty; what is lost is added to what was."""
        client = self._client()
        before = client.get_run(run_id).data.tags.get(tag, "")
        if tag == LOST_TAG:
            text = ", ".join(dict.fromkeys([*filter(None, before.split(", ")), text]))
        if text:
            client.set_tag(run_id, tag, text[:MAX_TAG_CHARS])
        elif before:
            client.delete_tag(run_id, tag)


def missing(tags: dict[str, str]) -> str:
    """What a run's tags say of files that MLflow does not have; empty if it has all."""
    return "; ".join(
        f"{what} {tags[tag]}" for tag, what in ((WAITING_TAG, "not stored yet:"), (LOST_TAG, "lost:")) if tags.get(tag)
    )


def download(client: "MlflowClient", run_id: str, artifact_path: str, folder: Path) -> Path:
    """Local path of an artifact; what lies in a local store is used in place, else a copy is put below `folder`.

    Raises:
        FileNotFoundError: a local store does not have it.
        ValueError: run id, path or the store's answer would leave their folders.
    """
    target = inside(folder, run_id)
    inside(target, artifact_path)
    place = urlsplit(client.get_run(run_id).info.artifact_uri or "")
    if place.scheme in ("", "file"):
        local = Path(url2pathname(place.path)) / artifact_path
        if not local.exists():
            raise FileNotFoundError(f"MLflow run {run_id} has no artifact {artifact_path!r} at {local}.")
        return local
    target.mkdir(parents=True, exist_ok=True)
    found = Path(client.download_artifacts(run_id, artifact_path, str(target)))
    if not found.resolve().is_relative_to(target.resolve()):
        raise ValueError(
            f"MLflow put {artifact_path!r} of run {run_id} at {found}, outside of {target}; do not use it."
        )
    return found
