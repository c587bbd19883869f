"""What is never done: no pickle is loaded and no code from files is run."""

import ast
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sigma_ray import backbone
from sigma_ray.adapter_files import read_adapter
from sigma_ray.checkpoint import Checkpoints
from sigma_ray.data.tables import Table
from sigma_ray.study import Study

ROOT = Path(__file__).parents[1]
PARTS = ("sigma_ray", "trainables", "studies", "benchmarks")
FILES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))

PICKLING = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
NEVER = {
    *("unsafe_load", "full_load", "load_all", "read_pickle", "load_checkpoint", "load_state_dict_from_url"),
    *("load_from_checkpoint", "from_pretrained", "system", "popen", "restore", "can_restore", "loads"),
}
"""Functions that unpickle, run a shell, or bring Ray's pickled state back."""
OURS = {"json", "rng"}  # what is called on these is harmless
SAFE = {"allow_pickle": False, "weights_only": True, "trust_remote_code": False, "shell": False}


def violations(source: str) -> Iterator[str]:
    """Calls and imports of `source` that could run code which is not the project's."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in PICKLING)
        if not isinstance(node, ast.Call):
            continue
        given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        owner, name = _called(node.func)
        if (owner, name) == ("torch", "load") or (owner == "" and name == "load_state_dict"):
            yield from [] if given.get("weights_only") is True else [f"{name} without weights_only=True"]
        if (name in NEVER and owner not in OURS) or (owner, name) in {("yaml", "load"), ("", "eval"), ("", "exec")}:
            yield f"calls {owner}.{name}"
        for option, safe in SAFE.items():
            yield from [f"{option} is not {safe}"] * (option in given and given[option] is not safe)


def _called(function: ast.expr) -> tuple[str, str]:
    """(what it is called on, name) of `torch.load`, `load`, ..."""
    if isinstance(function, ast.Attribute):
        owner = function.value
        return (owner.id if isinstance(owner, ast.Name) else "?"), function.attr
    return "", function.id if isinstance(function, ast.Name) else "?"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_of_the_project_could_run_foreign_code(path: Path) -> None:
    """Neither unpickles nor evaluates; `components` runs the project's own `Config` classes, and nothing else."""
    allowed = {"calls .exec"} if path == ROOT / "sigma_ray" / "components.py" else set()
    assert set(violations(path.read_text(encoding="utf-8"))) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch; torch.load('a')",
        "torch.load('a', weights_only=False)",
        "load_state_dict('a.pth')",
        "np.load('a', allow_pickle=True)",
        "np.load('a', allow_pickle=flag)",
        "yaml.load(text, Loader)",
        "eval(text)",
        "Tuner.restore('a')",
        "AutoModel.from_pretrained('a')",
        "subprocess.run('a', shell=True)",
        "os.system('a')",
    ],
)
def test_the_audit_finds_what_it_looks_for(source: str) -> None:
    assert list(violations(source))


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def new_zip(path: Path, evil: Evil) -> None:
    torch.save({"blocks.0.attn.qkv.weight": evil}, path)


def old_format(path: Path, evil: Evil) -> None:
    torch.save({"state_dict": evil}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path: Path, evil: Evil) -> None:
    path.write_bytes(pickle.dumps(evil))


@pytest.mark.parametrize("write", [new_zip, old_format, plain_pickle])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors", ""])
def test_weights_that_hold_code_are_refused_and_not_run(tmp_path: Path, write: Callable, suffix: str) -> None:
    """As backbone weights, adapter file, checkpoint and table."""
    marker, path = tmp_path / "was run", tmp_path / f"weights{suffix}"
    write(path, Evil(marker))
    with pytest.raises(ValueError, match=r"weights must be a readable .safetensors or .pth state dict"):
        backbone.load("scenes_tiny", weights=path)
    with pytest.raises(ValueError, match="an adapter file must be one that save_adapter wrote"):
        read_adapter(path)
    with pytest.raises(ValueError, match="Cannot open the table"):
        Table.open(path)
    path.rename(tmp_path / "step-00000001.safetensors")
    with pytest.warns(UserWarning, match="cannot be used"):
        assert Checkpoints(tmp_path).load() is None
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()  # it would have run


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "a b"])
def test_a_study_is_called_like_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match="the name of a study must be"):
        Study(name=name, question="?", arms=lambda profile: [])
