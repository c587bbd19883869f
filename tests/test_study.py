"""Studies as plans."""

from importlib import import_module
from itertools import permutations
from pathlib import Path

import pytest

from sigma_ray import profiles
from sigma_ray.study import Arm, Study, change, make_plan, remove, replace

FOLDER = Path(__file__).parents[1] / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("[!_]*.py") if "STUDY = " in path.read_text())


def study(*arms):
    return Study(name="s", question="?", arms=lambda profile: arms)


def test_studies_are_found():
    assert set(STUDIES) >= {"ablate_bottleneck", "ablate_kernels", "ablate_modules"}


@pytest.mark.parametrize("profile", profiles.names())
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_resolves_at_every_scale(name, profile):
    module = import_module(f"studies.{name}")
    plan = make_plan(module.STUDY, profile, num_seeds=3)
    arms = [arm.name for arm in module.STUDY.arms(profile)]
    assert module.STUDY.name == name
    assert [(t.arm, t.seed) for t in plan.trials] == [(arm, seed) for seed in range(3) for arm in arms]
    assert all(trial.config.seed == trial.seed for trial in plan.trials)
    assert len({trial.config for trial in plan.trials}) == len(plan.trials)
    differences = plan.differences()
    assert differences[plan.arms[0].name] == ""
    assert all(differences[arm] for arm in arms[1:])
    assert "\n" not in "".join(differences.values())


@pytest.mark.parametrize("profile", profiles.names())
def test_the_baselines_of_the_sigma_studies_are_the_profile_itself(profile):
    for name in ("ablate_bottleneck", "ablate_kernels", "ablate_modules"):
        plan = make_plan(import_module(f"studies.{name}").STUDY, profile, num_seeds=1)
        wanted = profiles.load(profile).adapter
        got = plan.trials[0].config.adapter
        if name != "ablate_bottleneck":
            assert got == wanted
        assert type(got).__module__ == type(wanted).__module__


def test_arms_that_are_the_same_configuration_are_refused():
    same = study(Arm(name="a"), Arm(name="b", edits=(change("adapter.bottleneck_dim", 8),)))
    with pytest.raises(ValueError, match="'a' and 'b' are the same configuration"):
        make_plan(same, "demo", num_seeds=1)


def test_the_order_of_settings_does_not_matter():
    settings = [
        ("data.num_classes", "11"),
        ("data", "folder"),
        ("num_workers", "3"),
        ("train.batch_size", "24"),
        ("adapter.pw_input", "concat"),
        ("adapter.modulation", "dynamic4"),
    ]
    only = study(Arm(name="a"))
    plans = [make_plan(only, "demo", num_seeds=1, settings=order) for order in list(permutations(settings))[::37]]
    assert len({plan.trials[0].config for plan in plans}) == 1
    config = plans[0].trials[0].config
    assert (config.data.num_classes, config.num_workers, config.train.batch_size) == (11, 3, 24)


def test_a_recipe_edits_the_baseline_and_settings_come_after_it():
    recipe = lambda profile: (change("task", "depth"), change("train.num_steps", 9 if profile == "demo" else 10))  # noqa: E731
    made = Study(name="s", question="?", arms=lambda profile: [Arm(name="a")], recipe=recipe)
    plan = make_plan(made, "demo", num_seeds=1, settings=[("train.batch_size", "4")])
    config = plan.trials[0].config
    assert (config.task, config.train.num_steps, config.train.batch_size) == ("depth", 9, 4)
    assert (plan.metric, plan.mode) == ("test/absrel", "min")
    plan = make_plan(made, "demo", num_seeds=1, settings=[("task", "detection"), ("train.num_steps", "3")])
    assert (plan.task, plan.trials[0].config.train.num_steps, plan.metric) == ("detection", 3, "test/ap")


def test_arms_of_several_tasks_are_refused():
    edits = (change("task", "depth"), replace("head", "linear_depth"))
    with pytest.raises(ValueError, match="task must be the same for all arms, but 'b' has depth"):
        make_plan(study(Arm(name="a"), Arm(name="b", edits=edits)), "demo", num_seeds=1)


def test_arms_are_edits_of_the_changed_baseline():
    plan = make_plan(
        study(Arm(name="a"), Arm(name="b", edits=(change("train.num_steps", 7),))),
        "demo",
        num_seeds=1,
        settings=[("train.num_steps", "5"), ("train.batch_size", "4")],
    )
    assert [(t.config.train.num_steps, t.config.train.batch_size) for t in plan.trials] == [(5, 4), (7, 4)]


def test_differences_are_readable():
    plan = make_plan(
        study(
            Arm(name="base"),
            Arm(name="kernels", edits=(change("adapter.kernel_sizes", (3, 5)), remove("adapter.ffn"))),
            Arm(name="lora", edits=(replace("adapter", "lora"), change("train.backbone_lr_scale", 0.1))),
        ),
        "demo",
        num_seeds=2,
    )
    assert plan.differences() == {
        "base": "",
        "kernels": "adapter.kernel_sizes=3,5, adapter.ffn=False",
        "lora": "adapter.name=lora, train.backbone_lr_scale=0.1",
    }
