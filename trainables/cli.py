"""The command line that every study shares. Its flags are frozen by a test; a new variation is a new study."""

import sys
from dataclasses import dataclass
from typing import Annotated, NoReturn

import tyro

from sigma_ray.redaction import redact
from sigma_ray.study import Plan, Study, make_plan


@dataclass(frozen=True, kw_only=True)
class Flags:
    """How to run a study.

    Attributes:
        profile: scale: demo (bundled backbone, generated scenes, minutes on a CPU) or paper (published recipe).
        seeds: number of seeds; every arm gets seeds 0..N-1.
        set: change the baseline, e.g. --set train.num_steps=600; repeatable.
        data_root: folder of the data set (data.root).
        weights: backbone weights: bundled, hub or a file (backbone.weights).
        address: Ray cluster to run on; default: $RAY_ADDRESS, else this machine.
        tracking_uri: MLflow tracking store.
        output: folder for results.
        jobs: most trials at a time; default: as many as the resources allow.
        dry_run: print the plan and stop.
    """

    profile: str = "demo"
    seeds: int = 3
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="PATH=VALUE")] = ()
    data_root: str | None = None
    weights: str | None = None
    address: str | None = None
    tracking_uri: str = "sqlite:///mlflow.db"
    output: str = "results"
    jobs: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class MatchingFlags(Flags):
    """How to run a study of methods.

    Attributes:
        match_parameters: choose every method's width so that it trains this many parameters (within 2 %).
    """

    match_parameters: int | None = None


def main(study: Study, *, of_methods: bool = False) -> None:
    """Parse the command line, run `study`, and exit: 0 all trials finished, 1 some have not, 2 input refused.

    A study `of_methods` leaves out those that cannot run on the backbone, and has the flag `--match-parameters`.
    """
    kind = MatchingFlags if of_methods else Flags
    flags = tyro.cli(kind, prog=f"python -m studies.{study.name}", description=study.question)
    try:
        plan = make_plan(study, flags.profile, num_seeds=_seeds(flags), settings=_settings(flags))
        if isinstance(flags, MatchingFlags):
            plan = _of_methods(plan, flags)
        if flags.dry_run:
            from trainables.dry_run import show

            show(plan)
            sys.exit(0)
        from trainables.tuner import run_study

        sys.exit(run_study(plan, flags))
    except (ValueError, OSError) as error:
        refuse(error)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def refuse(error: Exception) -> NoReturn:
    """Say in one line, without secrets, what is wrong, and exit: 1 where MLflow went away, 2 where input is refused."""
    print(f"error: {redact(' '.join(str(error).split()))}", file=sys.stderr)
    sys.exit(1 if isinstance(error, ConnectionError) else 2)


def _of_methods(plan: Plan, flags: MatchingFlags) -> Plan:
    """The plan without methods that cannot run, of one size where that is wanted."""
    from trainables.matching import match, runnable

    def again(study: Study) -> Plan:
        return make_plan(study, flags.profile, num_seeds=_seeds(flags), settings=_settings(flags))

    plan = again(runnable(plan))
    return plan if flags.match_parameters is None else again(match(plan, flags.match_parameters))


def _seeds(flags: Flags) -> int:
    if flags.seeds < 1 or (flags.jobs is not None and flags.jobs < 1):
        raise ValueError(f"--seeds and --jobs must be at least 1, but got {flags.seeds} and {flags.jobs}.")
    return flags.seeds


def _settings(flags: Flags) -> list[tuple[str, str]]:
    pairs = []
    for text in flags.set:
        path, found, value = text.partition("=")
        if not found or not path:
            raise ValueError(f"--set takes PATH=VALUE, but got {text!r}; for example --set train.num_steps=600.")
        pairs.append((path, value))
    pairs += [("data.root", flags.data_root)] if flags.data_root is not None else []
    pairs += [("backbone.weights", flags.weights)] if flags.weights is not None else []
    return pairs
