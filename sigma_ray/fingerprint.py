"""Content hashes of weights, computed without importing torch."""

import hashlib
import json
from pathlib import Path

BUNDLED = Path(__file__).parent / "weights"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of_weights(name: str, weights: str | None) -> str:
    """What stands for a backbone's weights in a trial key: their hash, or on the hub their name.

    Raises:
        ValueError: the file does not exist.
    """
    if weights is None:
        return "random"
    if weights == "hub":
        return f"hub:{name}"
    if weights == "bundled":
        card = BUNDLED / f"{name}.json"
        return json.loads(card.read_text())["sha256"] if card.is_file() else f"bundled:{name}"
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"backbone.weights must be 'bundled', 'hub' or an existing file, but got {weights!r}.")
    return file_sha256(path)
