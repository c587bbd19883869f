"""What a study would do, without doing it: arms, sizes, steps, and what is missing on this machine."""

from collections.abc import Iterator

from sigma_ray import components, profiles
from sigma_ray.config import TrialConfig
from sigma_ray.study import Plan

SMALL = "scenes_tiny"
"""A backbone for which nothing has to be fetched, and whose plan has to be there at once."""


def show(plan: Plan) -> None:
    """Print the plan: at once what the configuration says, then, for real backbones, sizes and what is missing."""
    from rich.console import Console
    from rich.table import Table

    baseline = plan.trials[0].config
    console = Console(highlight=False, soft_wrap=True)
    real = baseline.backbone.name != SMALL
    table = Table(title=plan.study.question, title_justify="left")
    for name in ("arm", "difference to the baseline", *(("trainable",) if real else ())):
        table.add_column(name, justify="right" if name == "trainable" else "left")
    for arm, difference in plan.differences().items():
        table.add_row(arm, difference or "(baseline)", *((_count(plan, arm),) if real else ()))
    console.print(table)
    console.print(
        f"{len(plan.trials)} trials = {len(plan.arms)} arms x {len(plan.seeds)} seeds, "
        f"{_steps(baseline)} each; profile {plan.profile} ({', '.join(profiles.names())}), "
        f"task {plan.task} with head {components.name_of(baseline.head)}, compared by {plan.metric} ({plan.mode}), "
        f"backbone {baseline.backbone.name}, weights {baseline.backbone.weights}."
    )
    for line in _needs(baseline):
        console.print(line)


def _steps(config: TrialConfig) -> str:
    train = config.train
    decays = (
        f", x{train.decay_factor:g} at {','.join(f'{at:,}' for at in train.decay_steps)}" if train.decay_steps else ""
    )
    return (
        f"{train.num_steps:,} steps of batch {train.batch_size} ({train.num_steps * train.batch_size:,} images"
        f"{', ' + 'x'.join(map(str, config.data.image_size))} px; AdamW {train.learning_rate:g}, "
        f"weight decay {train.weight_decay:g}, {train.warmup_steps} warm-up steps, {train.schedule}{decays})"
    )


def _count(plan: Plan, arm: str) -> str:
    """Trainable parameters of an arm on the backbone's side."""
    from trainables.matching import count

    config = next(trial.config for trial in plan.trials if trial.arm == arm)
    return f"{count(config):,}"


def _needs(config: TrialConfig) -> Iterator[str]:
    """Data and weights that a run reads, and which of them are missing here."""
    from sigma_ray import data

    yield from data.load(components.name_of(config.data)).needs(config.data)
    if config.backbone.weights == "bundled":
        return
    from sigma_ray import pretrained

    gone = pretrained.missing(config.backbone.name, config.backbone.weights)
    yield f"weights  {config.backbone.name}: {f'MISSING: {gone}' if gone else 'here'}"
