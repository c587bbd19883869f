"""Which part of the project may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("sigma_ray", "trainables", "studies") for path in (ROOT / folder).rglob("*.py"))
ALLOWED = {
    "mlflow": {
        "sigma_ray/tracking.py",
        *(f"sigma_ray/mlflow_{name}.py" for name in ("runs", "client", "files")),
        *(f"trainables/{name}.py" for name in ("leftovers", "recorded", "rerun")),  # the types of what they were given
    },
    "matplotlib": {"sigma_ray/figures.py", "sigma_ray/pictures.py"},
}


def imported(path):
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add((node.module or "").partition(".")[0])
    return found


def test_the_rules_look_at_something():
    assert len(FILES) > 40
    found = {package for path in FILES for package in imported(path)}
    assert found >= {"torch", "ray", "mlflow", "matplotlib", "sigma_ray", "trainables", "studies"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    layer = path.relative_to(ROOT).parts[0]
    forbidden = {"sigma_ray": {"ray", "trainables", "studies"}, "trainables": {"studies"}, "studies": set()}[layer]
    name = path.relative_to(ROOT).as_posix()
    forbidden = forbidden | {package for package, files in ALLOWED.items() if name not in files}
    assert not imported(path) & forbidden


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.py")), ids=lambda path: path.stem)
def test_a_study_is_one_short_file(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 70
