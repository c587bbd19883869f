"""Two trials of seconds, as a program: `python pair_study.py [flags]`. The second arm is there to be left alone."""

from sigma_ray.study import Arm, Study, change, replace
from trainables.cli import main

STUDY = Study(
    name="faults",
    question="Does it end well?",
    arms=lambda profile: [Arm(name="sigma"), Arm(name="fixed", edits=(replace("adapter", "fixed"),))],
)
DIVERGING = Study(
    name="faults",
    question="Does one trial's end leave the other alone?",
    arms=lambda profile: [
        Arm(name="sigma", edits=(change("train.learning_rate", 1e30), change("train.clip_grad_norm", None))),
        Arm(name="fixed", edits=(replace("adapter", "fixed"),)),
    ],
)

if __name__ == "__main__":
    main(STUDY)
