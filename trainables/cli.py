"""The command line that every study shares. Its flags are frozen by a test; a new variation is a new study."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, TypeVar

import tyro

from sigma_ray import checks
from sigma_ray.redaction import redact
from sigma_ray.study import Plan, Study, make_plan


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where trials run, what they read, and where their results go.

    Attributes:
        data_root: folder of the data set (data.root).
        weights: backbone weights: bundled, hub or a file (backbone.weights).
        address: Ray cluster to run on; default: $RAY_ADDRESS, else this machine.
        tracking_uri: MLflow tracking store.
        output: folder for results.
        jobs: most trials at a time; default: as many as the resources allow.
    """

    data_root: str | None = None
    weights: str | None = None
    address: str | None = None
    tracking_uri: str = "sqlite:///mlflow.db"
    output: str = "results"
    jobs: int | None = None

    def check(self) -> None:
        """Raise ValueError where a number makes no sense."""
        if self.jobs is not None:
            checks.positive("--jobs", self.jobs)


F = TypeVar("F", bound=Place)


@dataclass(frozen=True, kw_only=True)
class Flags(Place):
    """How to run a study.

    Attributes:
        profile: scale: demo (bundled backbone, generated scenes, minutes on a CPU) or paper (published recipe).
        seeds: number of seeds; every arm gets seeds 0..N-1.
        set: change the baseline, e.g. --set train.num_steps=600; repeatable.
        dry_run: print the plan and stop.
    """

    profile: str = "demo"
    seeds: int = 3
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="PATH=VALUE")] = ()
    dry_run: bool = False

    def check(self) -> None:
        """Raise ValueError where a number makes no sense."""
        super().check()
        checks.positive("--seeds", self.seeds)


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
    with errors_end_the_program():
        flags = parse(kind, study.name, study.question)
        plan = make_plan(study, flags.profile, num_seeds=flags.seeds, settings=_settings(flags))
        if isinstance(flags, MatchingFlags):
            plan = _of_methods(plan, flags)
        if flags.dry_run:
            from trainables.dry_run import show

            show(plan)
            sys.exit(0)
        from trainables.tuner import run_study

        sys.exit(run_study(plan, flags))


def parse(kind: type[F], program: str, description: str | None) -> F:
    """The flags of `python -m studies.<program>`, checked; ValueError where one makes no sense."""
    flags = tyro.cli(kind, prog=f"python -m studies.{program}", description=description)
    flags.check()
    return flags


@contextmanager
def errors_end_the_program() -> Iterator[None]:
    """Say in one line, without secrets, why it ends: exit code 2 refused input, 1 MLflow went away, 130 Ctrl-C."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {redact(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(1 if isinstance(error, ConnectionError) else 2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _of_methods(plan: Plan, flags: MatchingFlags) -> Plan:
    """The plan without methods that cannot run, of one size where that is wanted."""
    from trainables.matching import match, runnable

    def again(study: Study) -> Plan:
        return make_plan(study, flags.profile, num_seeds=flags.seeds, settings=_settings(flags))

    plan = again(runnable(plan))
    return plan if flags.match_parameters is None else again(match(plan, flags.match_parameters))


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
