"""Equal budgets: widths are solved for, and what cannot be matched is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ray.study import Arm, Study, make_plan, replace
from studies.compare_methods import STUDY
from trainables import matching


def plan(*names):
    arms = [Arm(name=name, edits=(replace("adapter", name),)) for name in names]
    return make_plan(Study(name="s", question="?", arms=lambda profile: arms), "demo", num_seeds=2)


def test_every_arm_gets_the_budget_within_two_percent(capsys):
    before = plan("sigma", "adapter", "lora", "vpt", "fixed", "vfm_adapter")
    study = matching.match(before, 36_500)
    after = make_plan(study, "demo", num_seeds=2)
    assert [arm.name for arm in after.arms] == ["sigma", "adapter", "lora", "vpt"]
    for trial in after.trials:
        assert matching.count(trial.config) == pytest.approx(36_500, rel=0.02)
    assert after.differences()["lora"] == "adapter.name=lora, adapter.rank=16"
    note = capsys.readouterr().err
    assert "36,500 parameters cannot be matched by fixed (has no width), vfm_adapter (137,886 at bottleneck" in note


def test_methods_that_cannot_run_on_a_backbone_are_left_out_and_named(capsys):
    settings = [("backbone.name", "swin_tiny_patch4_window7_224"), ("backbone.weights", "none")]
    before = make_plan(STUDY, "demo", num_seeds=1, settings=settings)
    after = make_plan(matching.runnable(before), "demo", num_seeds=1, settings=settings)
    notes = capsys.readouterr().err.splitlines()
    gone = {arm.name for arm in before.arms} - {arm.name for arm in after.arms}
    assert gone == {"vpt", "fact", "vit_split"}
    assert len(notes) == 3 and all("cannot run on swin_tiny" in note for note in notes)
    assert after.arms[0].name == "sigma" and after.study.name == STUDY.name
    vpt_first = Study(
        name="s", question="?", arms=lambda profile: [Arm(name="vpt", edits=(replace("adapter", "vpt"),))]
    )
    with pytest.raises(ValueError, match="vpt cannot run on swin_tiny"):
        matching.runnable(make_plan(vpt_first, "demo", num_seeds=1, settings=settings))


def test_every_method_is_matched_or_named(capsys):
    before = make_plan(STUDY, "demo", num_seeds=1)
    study = matching.match(before, 36_000)
    kept, note = {arm.name for arm in study.arms("demo")}, capsys.readouterr().err
    assert kept >= {"sigma", "adapter", "adaptformer", "arc", "fact", "repadapter", "vpt"}
    assert all(arm.name in kept or f"{arm.name} (" in note for arm in before.arms)
    assert study.name == "compare_methods_36000"


def test_a_budget_that_the_baseline_cannot_meet_is_refused():
    with pytest.raises(ValueError, match="that sigma, the baseline, can come within 2 % of, but got 100"):
        matching.match(plan("sigma", "adapter"), 100)


@given(st.integers(1, 50), st.integers(0, 500), st.integers(1, 100_000))
def test_solve_finds_the_nearest_width(slope, constant, budget):
    def size(width):
        return constant + slope * width + width * width

    found = matching.solve(size, budget)
    nearest = min(range(1, 400), key=lambda width: abs(size(width) - budget))
    assert abs(size(found) - budget) == abs(size(nearest) - budget)
