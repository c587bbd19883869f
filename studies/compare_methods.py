"""Which adapter is best, at equal training?

Run:     python -m studies.compare_methods              (--match-parameters 36000: every method at the same size)
Cost:    demo: 18 methods; 36 trials, about 13 minutes, with --seeds 2 on 2 CPU cores.
Decides: which method to take for a task, and which of the differences to it are real.

Every method has the width that its paper gives for a ViT-B, SIGMA the profile's (in the demo a narrow one, because the
bundled backbone is narrow): for methods of one size use --match-parameters.
"""

from sigma_ray import components
from sigma_ray.study import Arm, Edit, Study, replace
from studies._references import GENTLE
from trainables.cli import main

BASELINE = "sigma"
TUNES_PRETRAINED = ("full", "partial", "vit_split")

PAPER = {"sigma": {"mAP": 54.4, "AP50": 74.6}}


def arms(profile: str) -> list[Arm]:
    """SIGMA as the profile has it, then every other method with its defaults."""
    others = [name for name in components.names("adapter") if name != BASELINE]
    return [Arm(name=BASELINE, paper=PAPER[BASELINE]), *(Arm(name=name, edits=_edits(name)) for name in others)]


def _edits(name: str) -> tuple[Edit, ...]:
    return (replace("adapter", name), GENTLE) if name in TUNES_PRETRAINED else (replace("adapter", name),)


STUDY = Study(
    name="compare_methods",
    question="Which adapter is best, at equal training?",
    arms=arms,
    paper_note="Paper: SIGMA Table 1, COCO detection, r = 32; the other methods' rows are lost in every copy at hand.",
)

if __name__ == "__main__":
    main(STUDY, of_methods=True)
