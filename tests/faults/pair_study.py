"""Two trials of seconds and about one length, as a program: `python pair_study.py [flags]`."""

from sigma_ray.study import Arm, Study, change
from trainables.cli import main

STUDY = Study(
    name="faults",
    question="Does it end well?",
    arms=lambda profile: [Arm(name="sigma"), Arm(name="wide", edits=(change("adapter.bottleneck_dim", 16),))],
)

if __name__ == "__main__":
    main(STUDY)
