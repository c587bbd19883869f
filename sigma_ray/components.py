"""Components: one file each under `adapters/`, `heads/` and `data/`, looked up by file name.

`import torch` alone costs close to three seconds, and the command line must list, check and print a plan in less.
So a component's `Config` class is read from its file without running the rest of it: the file is parsed, and only
the `Config` class and the cheap imports it may use are executed. The price is a rule, kept by a contract test:
a `Config` uses nothing but builtins, `dataclasses`, `typing`, `math`, `sigma_ray.checks` and the options that
data sets share (`sigma_ray.data._options`).
"""

import ast
import functools
from pathlib import Path
from typing import Any

KINDS = {"adapter": "adapters", "head": "heads", "data": "data"}
_CHEAP = {"dataclasses", "typing", "math", "collections.abc", "sigma_ray.checks", "sigma_ray.data._options"}


def names(kind: str) -> list[str]:
    """Names of the components of a `kind` ("adapter", "head", "data"): those of its files that hold a `Config`."""
    folder = Path(__file__).parent / KINDS[kind]
    files = (path for path in folder.glob("[!_]*.py") if _config_node(path) is not None)
    return sorted(path.stem for path in files)


@functools.cache
def config_class(kind: str, name: str) -> Any:
    """The `Config` class of component `name`, read without importing torch.

    Raises:
        ValueError: no such component; the message lists those there are.
    """
    path = Path(__file__).parent / KINDS[kind] / f"{name}.py"
    node = _config_node(path) if name.isidentifier() and path.is_file() else None
    if node is None:
        raise ValueError(f"Unknown {kind} {name!r}; choose one of {', '.join(names(kind))}.")
    body = [n for n in _parsed(path).body if isinstance(n, ast.ImportFrom) and _is_cheap(n)]
    namespace: dict[str, Any] = {"__name__": f"sigma_ray.{KINDS[kind]}.{name}"}
    exec(compile(ast.Module([*body, node], []), path, "exec"), namespace)
    return namespace["Config"]


def name_of(config: object) -> str:
    """The component a `Config` instance belongs to: its file's name."""
    return type(config).__module__.rpartition(".")[2]


def _is_cheap(node: ast.ImportFrom) -> bool:
    return node.module in _CHEAP or (node.module == "sigma_ray" and [a.name for a in node.names] == ["checks"])


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _config_node(path: Path) -> ast.ClassDef | None:
    classes = (node for node in _parsed(path).body if isinstance(node, ast.ClassDef))
    return next((node for node in classes if node.name == "Config"), None)
