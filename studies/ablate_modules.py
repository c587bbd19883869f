"""Which parts of SIGMA carry its gain: scale-adaptive fusion, semantic modulation, or the bottleneck alone?

Run:     python -m studies.ablate_modules               (--dry-run prints the plan)
Cost:    demo: 24 trials, about 7 minutes on 2 CPU cores. paper: 24 trials of 30 COCO epochs on a ViT-B.
Decides: which modules a lighter SIGMA may leave out.
"""

from sigma_ray.study import Arm, Study, change, remove
from studies._references import FIXED, FULL
from trainables.cli import main

NO_FUSION, NO_MODULATION = remove("adapter.fusion"), change("adapter.modulation", "none")


def arms(profile: str) -> list[Arm]:
    """The whole module first, then what is left without each part."""
    return [
        Arm(name="sigma", paper={"mAP": 54.4, "AP50": 74.6}),
        Arm(name="w/o fusion", edits=(NO_FUSION,), paper={"mAP": 52.2, "AP50": 73.0}),
        Arm(name="w/o modulation", edits=(NO_MODULATION,), paper={"mAP": 53.6, "AP50": 74.1}),
        Arm(name="w/o both (linear)", edits=(NO_FUSION, NO_MODULATION)),
        Arm(name="attention side only", edits=(remove("adapter.ffn"),)),
        Arm(name="FFN side only", edits=(remove("adapter.attn"),)),
        FIXED,
        FULL,
    ]


STUDY = Study(
    name="ablate_modules",
    question="Which parts of SIGMA carry its gain?",
    arms=arms,
    paper_note="Paper: SIGMA Table 5, COCO detection.",
)

if __name__ == "__main__":
    main(STUDY)
