"""Reading a component's `Config` without importing the component."""

import dataclasses
import subprocess
import sys
from importlib import import_module

import pytest

from sigma_ray import components

EXPECTED = {
    "adapter": {"sigma", "fixed", "full", "adapter", "lora"},
    "head": {"deconv", "segformer", "mask2former"},
    "data": {"scenes", "folder"},
}
ALL = [(kind, name) for kind in components.KINDS for name in components.names(kind)]


def described(cls):
    return [(f.name, f.type, f.default) for f in dataclasses.fields(cls)]


@pytest.mark.parametrize("kind", EXPECTED)
def test_components_are_found(kind):
    assert set(components.names(kind)) >= EXPECTED[kind]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_the_config_that_is_read_equals_the_imported_one(kind, name):
    read = components.config_class(kind, name)
    imported = import_module(f"sigma_ray.{components.KINDS[kind]}.{name}").Config
    assert described(read) == described(imported)
    assert dataclasses.asdict(read()) == dataclasses.asdict(imported())
    assert components.name_of(read()) == components.name_of(imported()) == name


def test_reading_and_planning_import_nothing_heavy():
    code = (
        "import sys; from sigma_ray import components, profiles\n"
        "read = [components.config_class(k, n) for k in components.KINDS for n in components.names(k)]\n"
        "profiles.load('demo'), profiles.load('paper')\n"
        "print(len(read), sorted({'torch', 'timm', 'numpy', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"{len(ALL)} []"


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("name", ["nope", "_inject", "../train", "__init__"])
def test_an_unknown_name_lists_the_choices(kind, name):
    with pytest.raises(ValueError, match="choose one of") as caught:
        components.config_class(kind, name)
    assert all(known in str(caught.value) for known in EXPECTED[kind])
    assert "\n" not in str(caught.value)
