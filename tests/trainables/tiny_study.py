"""A study of seconds for the tests, run as a program: `python tiny_study.py ARM,ARM [flags]`."""

import sys

from sigma_ray.study import Arm, Study, change, replace
from trainables.cli import main

ARMS = {
    "sigma": Arm(name="sigma"),
    "wide": Arm(name="wide", edits=(change("adapter.bottleneck_dim", 16),)),
    "fixed": Arm(name="fixed", edits=(replace("adapter", "fixed"),)),
    "diverges": Arm(name="diverges", edits=(change("train.learning_rate", 1e30), change("train.clip_grad_norm", None))),
}

if __name__ == "__main__":
    chosen = [ARMS[name] for name in sys.argv.pop(1).split(",")]
    main(Study(name="tiny", question="Does it run?", arms=lambda profile: chosen))
