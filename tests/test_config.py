"""Configurations: edits by path, round trips, trial keys."""

import copy
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ray import profiles
from sigma_ray.config import (
    BackboneConfig,
    TrainConfig,
    component,
    flatten,
    from_dict,
    override,
    override_all,
    to_dict,
    trial_key,
)

DEMO = profiles.load("demo")


@pytest.mark.parametrize(
    ("path", "text", "wanted"),
    [
        ("adapter.bottleneck_dim", "16", 16),
        ("adapter.kernel_sizes", "3,5,7", (3, 5, 7)),
        ("adapter.kernel_sizes", " 5 ", (5,)),
        ("adapter.modulation", "none", "none"),
        ("adapter.fusion", "false", False),
        ("train.learning_rate", "1e-4", 1e-4),
        ("train.clip_grad_norm", "none", None),
        ("train.clip_grad_norm", "0.5", 0.5),
        ("train.micro_batch_size", "8", 8),
        ("backbone.weights", "none", None),
        ("head.channels", "None", None),
        ("data.image_size", "48,64", (48, 64)),
        ("seed", "3", 3),
    ],
)
def test_override_parses_text_by_the_fields_type(path, text, wanted):
    changed = override(DEMO, path, text)
    value = changed
    for part in path.split("."):
        value = getattr(value, part)
    assert value == wanted
    assert type(value) is type(wanted)
    before, after = flatten(to_dict(DEMO)), flatten(to_dict(changed))
    assert {key for key in after if after[key] != before[key]} <= {path}


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("adapter.rank", "4", "bottleneck_dim"),
        ("train.lr", "4", "learning_rate"),
        ("nothing", "4", "backbone"),
        ("seed.deep", "4", "Unknown field"),
        ("train", "4", "group of fields"),
        ("adapter", "nope", "choose one of"),
        ("adapter.bottleneck_dim", "wide", "'wide'"),
        ("adapter.bottleneck_dim", "none", "'none'"),
        ("adapter.bottleneck_dim", "0", "greater than 0"),
        ("adapter.kernel_sizes", "3,4", "odd"),
        ("train.schedule", "stairs", "cosine"),
        ("train.schedule", "step", "decay_steps"),
        ("train.decay_steps", "4", "schedule=step"),
        ("train.num_steps", "1.5", "train.num_steps"),
        ("train.learning_rate", "nan", "nan"),
        ("num_workers", "3", "multiple of num_workers"),
        ("task", "depth", "head must be one for task depth"),
        ("task", "flow", "segmentation"),
        ("head", "atss", "head must be one for task segmentation"),
    ],
)
def test_a_wrong_edit_is_refused_in_one_line(path, value, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        override(DEMO, path, value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["adapter", "adapter.name"])
def test_a_component_is_replaced_with_its_own_defaults(path):
    assert override(DEMO, path, "lora") == dataclasses.replace(DEMO, adapter=component("adapter", "lora"))


def test_edits_that_need_each_other_work_in_either_order():
    edits = [("adapter.pw_input", "concat"), ("adapter.modulation", "dynamic4")]
    changed = override_all(DEMO, edits)
    assert changed == override_all(DEMO, edits[::-1])
    assert (changed.adapter.pw_input, changed.adapter.modulation) == ("concat", "dynamic4")
    with pytest.raises(ValueError, match="dynamic4"):
        override(DEMO, *edits[0])


@given(
    adapter=st.sampled_from(
        [
            component("adapter", "sigma", kernel_sizes=(3,)),
            component("adapter", "lora"),
            component("adapter", "fixed"),
        ]
    ),
    steps=st.integers(1, 10**6),
    rate=st.floats(1e-9, 10),
    clip=st.none() | st.floats(1e-3, 100),
    weights=st.none() | st.text(max_size=8),
    size=st.tuples(st.integers(36, 999), st.integers(36, 999)),
    seed=st.integers(0, 2**31),
)
def test_a_dictionary_gives_the_configuration_back(adapter, steps, rate, clip, weights, size, seed):
    config = dataclasses.replace(
        DEMO,
        adapter=adapter,
        seed=seed,
        data=component("data", "scenes", image_size=size),
        backbone=BackboneConfig(name="x", weights=weights),
        train=TrainConfig(num_steps=steps, learning_rate=rate, clip_grad_norm=clip),
    )
    back = from_dict(to_dict(config))
    assert back == config
    assert hash(back) == hash(config)


def key(config, data="d", weights="w"):
    return trial_key(config, data_fingerprint=data, weights_fingerprint=weights)


def test_the_key_stands_for_contents_not_paths():
    paper = profiles.load("paper")
    moved = override_all(
        paper, [("data.root", "/elsewhere"), ("backbone.weights", "/elsewhere/w.pth"), ("gpus_per_worker", 0.5)]
    )
    assert moved != paper
    assert key(moved) == key(paper)
    assert len({key(paper), key(paper, data="e"), key(paper, weights="v")}) == 3


def other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 or 2
    return {
        "cosine": "poly",
        "auto": "float32",
        "best": "last",
        "target": "source",
        "token": "pooled",
        "mean": "sum",
        "bypass": "center_tap",
        "dynamic3_static1": "dynamic3",
        "post_residual": "pre_residual",
        None: 4,
        "scenes_tiny": "other",
    }.get(value if not isinstance(value, list) else "list", [64, 65] if value == [64, 64] else [5])


def test_every_other_field_is_part_of_the_key():
    plain = flatten(to_dict(DEMO))
    fixed = {
        "backbone.weights",
        "task",
        "adapter.name",
        "head.name",
        "data.name",
        "adapter.pw_input",
        "gpus_per_worker",
    }
    paths = sorted(plain.keys() - fixed)
    # Fields are changed in the dictionary, where no check of one value against another interferes.
    keys = {path: key(_unchecked(DEMO, path, other(plain[path]))) for path in paths}
    assert len(paths) > 35
    assert len({key(DEMO), *keys.values()}) == len(paths) + 1
    assert key(override(DEMO, "adapter", "lora")) != key(DEMO)


@pytest.mark.parametrize(("workers", "gpus"), [(1, -0.1), (1, 2.0), (2, 0.5)])
def test_shares_of_a_gpu_are_checked(workers, gpus):
    with pytest.raises(ValueError, match="gpus_per_worker must be between 0 and 1"):
        override_all(DEMO, [("num_workers", workers), ("gpus_per_worker", gpus)])


def _unchecked(config, path, value):
    changed = copy.deepcopy(config)
    *groups, name = path.split(".")
    target = getattr(changed, groups[0]) if groups else changed
    object.__setattr__(target, name, value)
    return changed
