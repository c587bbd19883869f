"""Names that stay inside their folder."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ray.paths import NAME_CHARS, inside, plain_name

PARTS = st.lists(st.sampled_from(["..", ".", "a", "b.png", "", "/", "\\", "...", "..a", "C:", "\0", "ü"]), max_size=6)


@given(name=st.one_of(st.text(max_size=20), PARTS.map("/".join), PARTS.map("".join), PARTS.map("\\".join)))
def test_whatever_is_not_refused_is_inside(name: str) -> None:
    """Compared with what the operating system makes of the name."""
    folder = Path("/some/where")
    try:
        path = inside(folder, name)
    except ValueError:
        return
    assert Path("/some/where") in Path(os.path.normpath(path)).parents
    assert path == folder / name


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "a b.jpg", "..a/b..", "ü.png", "2007_000032.jpg", "./a.png"])
def test_ordinary_names_pass(name: str) -> None:
    assert inside(Path("/data"), name) == Path("/data") / name


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/../../b", "/etc/passwd", "\\\\host\\a", "a\\..\\b", "a\0b"])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must name files below /data, but got"):
        inside(Path("/data"), name)


@given(name=st.text(alphabet=sorted(NAME_CHARS), min_size=1, max_size=100))
def test_plain_names(name: str) -> None:
    """Of the allowed characters only the beginning is judged."""
    if name[0] in ".-":
        with pytest.raises(ValueError, match="begin with neither"):
            plain_name("study name", name)
    else:
        assert plain_name("study name", name) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a b", "-rf", ".git", "ä", "x" * 101, "a\n"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="study name must be 1 to 100 letters"):
        plain_name("study name", name)
