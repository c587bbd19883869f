"""Every published count, and the reasons of those that cannot be met."""

import json
import subprocess
import sys

import pytest

from trainables.parameters import Published, count, rows
from trainables.published import PUBLISHED


def name(entry):
    options = ",".join(f"{key}={value}" for key, value in entry.options.items())
    return f"{entry.method}-{entry.backbone}-{entry.millions}-{entry.head}-{options}-{entry.image_size}"


@pytest.mark.parametrize("entry", PUBLISHED, ids=name)
def test_published_counts_match_or_say_why_not(entry):
    assert entry.matches(count(entry)) is not bool(entry.reason)


@pytest.mark.parametrize(
    ("method", "options", "exact"),
    [
        ("sigma", {}, 1_480_704),
        ("lora", {}, 2_359_296),
        ("adapter", {}, 2_379_264),
        ("adaptformer", {}, 1_189_632),
        ("lorand", {}, 3_591_168),
        ("vfm_adapter", {}, 2_784_064),
        ("bitfit", {}, 102_912),
        ("partial", {}, 7_089_408),
        ("ssf", {}, 205_824),
        ("arc", {}, 96_432),
        ("vpt", {"num_tokens": 10}, 92_160),
        ("vpt", {"num_tokens": 50}, 460_800),
        ("vpt", {"num_tokens": 100}, 921_600),
        ("convpass", {}, 327_552),
        ("fact", {}, 61_440),
        ("fact", {"rank": 32, "form": "tk"}, 86_528),
        ("mona", {}, 2_684_928),
        ("repadapter", {}, 239_808),
    ],
)
def test_counts_are_the_closed_formulas(method, options, exact):
    assert count(Published(method, 0.0, options, "")) == exact


def test_matching_is_by_printed_digits():
    assert Published("x", 1.48, {}, "").matches(1_484_999) and not Published("x", 1.48, {}, "").matches(1_486_000)
    assert Published("x", 0.23, {}, "", difference=True).matches(218_112)
    assert not Published("x", 0.24, {}, "", difference=True).matches(218_112)


def test_another_backbone_counts_all_that_run_on_it(capsys):
    table = rows(PUBLISHED, "swin_base")
    assert {row["method"] for row in table} >= {"sigma", "mona", "lora"} and {row["backbone"] for row in table} == {
        "swin_base"
    }
    assert not {"vpt", "fact", "vit_split"} & {row["method"] for row in table}
    assert "vpt cannot run on swin_base" in capsys.readouterr().err


def test_the_command_prints_json():
    command = [sys.executable, "-m", "studies.parameter_table", "--json", "--backbone", "scenes_tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sigma = next(row for row in json.loads(done.stdout) if row["method"] == "sigma")
    assert sigma["trainable_parameters"] == 200_064 and sigma["match"] is None


def test_an_unknown_backbone_is_refused():
    command = [sys.executable, "-m", "studies.parameter_table", "--backbone", "nope"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "got 'nope'" in done.stderr
