"""Which methods a comparison can have: those that run on the backbone and, if wanted, can have one size."""

import dataclasses
import functools
import sys
from collections.abc import Callable

from sigma_ray import components
from sigma_ray.config import TrialConfig, override
from sigma_ray.failures import UnsupportedError
from sigma_ray.study import Arm, Plan, Study, change

WIDTHS = ("bottleneck_dim", "rank", "num_tokens")
"""The field of a method's `Config` that is its width: the first of these that it has."""

TOLERANCE = 0.02


def runnable(plan: Plan) -> Study:
    """The plan's study without the arms whose method cannot run on their backbone; these are named on stderr.

    Raises:
        ValueError: the baseline cannot run.
    """
    first = {trial.arm: trial.config for trial in plan.trials if trial.seed == plan.seeds[0]}
    refused = {}
    for name, config in first.items():
        try:
            count(config)
        except UnsupportedError as error:
            refused[name] = str(error)
    if plan.arms[0].name in refused:
        raise ValueError(refused[plan.arms[0].name])
    for reason in refused.values():
        print(f"note: left out, because {reason}", file=sys.stderr)
    arms = [arm for arm in plan.arms if arm.name not in refused]
    return dataclasses.replace(plan.study, arms=lambda profile: arms)


def match(plan: Plan, budget: int) -> Study:
    """The plan's study with every arm's width set so that it trains `budget` parameters on the backbone's side.

    Arms that have no width, or none that comes within 2 %, are left out and named on stderr.

    Raises:
        ValueError: no arm is left, or the baseline is not among those left.
    """
    first = {trial.arm: trial.config for trial in plan.trials if trial.seed == plan.seeds[0]}
    matched, left_out = [], []
    for arm in plan.arms:
        found = _matched(arm, first[arm.name], budget)
        if isinstance(found, Arm):
            matched.append(found)
        else:
            left_out.append(f"{arm.name} ({found})")
    if left_out:
        print(f"note: {budget:,} parameters cannot be matched by {', '.join(left_out)}.", file=sys.stderr)
    if not matched or matched[0].name != plan.arms[0].name:
        raise ValueError(
            f"--match-parameters must be a number that {plan.arms[0].name}, the baseline, can come within 2 % of, but "
            f"got {budget}; see python -m studies.parameter_table for the methods' sizes."
        )
    # A name of its own: these are other trials than those of the unmatched study, with results of their own.
    return dataclasses.replace(plan.study, name=f"{plan.study.name}_{budget}", arms=lambda profile: matched)


def _matched(arm: Arm, config: TrialConfig, budget: int) -> Arm | str:
    """The arm with its width set, or why there is none."""
    fields = {field.name for field in dataclasses.fields(config.adapter)}
    width = next((name for name in WIDTHS if name in fields), None)
    if width is None:
        return "has no width"
    path = f"adapter.{width}"
    step = next(n for n in range(1, 1000) if _allowed(config, path, n))  # some widths come in groups
    value = step * solve(lambda n: count(override(config, path, step * n)), budget)
    ours = count(override(config, path, value))
    if abs(ours - budget) > TOLERANCE * budget:
        return f"{ours:,} at {width}={value}"
    return dataclasses.replace(arm, edits=(*arm.edits, change(path, value)))


def _allowed(config: TrialConfig, path: str, value: int) -> bool:
    try:
        override(config, path, value)
    except ValueError:
        return False
    return True


def solve(size: Callable[[int], int], budget: int) -> int:
    """The width of at least 1 whose `size`, which grows with it, is nearest to `budget`."""
    high = 1
    while size(high) < budget:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size(middle) >= budget else (middle, high)
    return min((max(low, 1), high), key=lambda width: abs(size(width) - budget))


@functools.cache  # a plan is counted to see what runs, to match sizes, and to be shown
def count(config: TrialConfig) -> int:
    """Trainable parameters on the backbone's side; nothing is allocated."""
    import torch

    from sigma_ray import adapters
    from sigma_ray import backbone as backbones

    with torch.device("meta"):
        backbone = backbones.load(config.backbone.name, None)
        adapters.attach(backbone, components.name_of(config.adapter), **dataclasses.asdict(config.adapter))
    return adapters.trainable_parameters(backbone)
