"""The study that faults are let loose on: twelve trials (of four arms) with a checkpoint every few steps.

Run as a program, `python -m benchmarks.faults.study [flags]`, as every study is.
"""

from sigma_ray.study import Arm, Study, change, replace
from trainables.cli import main

STUDY = Study(
    name="faults",
    question="Does every trial end once, whatever dies meanwhile?",
    arms=lambda profile: [
        Arm(name="sigma"),
        Arm(name="wide", edits=(change("adapter.bottleneck_dim", 16),)),
        Arm(name="lora", edits=(replace("adapter", "lora"),)),
        Arm(name="fixed", edits=(replace("adapter", "fixed"),)),
    ],
)

if __name__ == "__main__":
    main(STUDY)
