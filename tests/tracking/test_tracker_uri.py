"""Which tracking stores are accepted, and how they are shown."""

import time
from pathlib import Path

import pytest

from sigma_ray import tracking


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("./mlruns", "no longer writes plain folders"),
        ("file:///tmp/mlruns", "no longer writes plain folders"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("http://127.0.0.1:9", "cannot be used"),
        ("postgresql://me:secret@127.0.0.1:9/db", r"me:\*\*\*@127.0.0.1:9"),
        ("http://me:secret@127.0.0.1:9", r"me:\*\*\*@127.0.0.1:9"),
    ],
)
def test_check_refuses_in_one_line_without_the_password(uri: str, message: str) -> None:
    """Every address that cannot work is refused at once, with a way out."""
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        tracking.check(uri)
    text = str(caught.value)
    assert "secret" not in text
    assert "\n" not in text
    assert "--tracking-uri sqlite:///mlflow.db" in text
    assert time.monotonic() - begun < 3.5


def test_check_of_sqlite_files(tmp_path: Path) -> None:
    """A new file in a new folder is fine; a file of another kind and a folder below a file are not."""
    tracking.check(f"sqlite:///{tmp_path}/new/folder/mlflow.db")
    assert (tmp_path / "new/folder").is_dir()
    assert not (tmp_path / "new/folder/mlflow.db").exists()
    (tmp_path / "notes.txt").write_text("not a database at all")
    with pytest.raises(ValueError, match="no sqlite database"):
        tracking.check(f"sqlite:///{tmp_path}/notes.txt")
    with pytest.raises(ValueError, match="cannot be used"):
        tracking.check(f"sqlite:///{tmp_path}/notes.txt/mlflow.db")


def test_the_command_that_opens_the_user_interface() -> None:
    """Exactly what a user pastes into a shell."""
    assert tracking.mlflow_ui_command("sqlite:///mlflow.db") == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    assert tracking.mlflow_ui_command("sqlite:///a b.db") == "mlflow ui --backend-store-uri 'sqlite:///a b.db'"
    assert tracking.mlflow_ui_command("http://head:5000") == "http://head:5000"
