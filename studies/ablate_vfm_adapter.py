"""What carries VFM-Adapter: the convolution, a kernel from a hyper-network, or one that sees the image?

Run:     python -m studies.ablate_vfm_adapter           (--dry-run prints the plan)
Cost:    demo: 18 trials, about 7 minutes on 2 CPU cores.
Decides: whether an input-aware kernel is worth its parameters.
"""

from sigma_ray.study import Arm, Study, change, remove, replace
from studies._references import FIXED, FULL
from trainables.cli import main

VFM, STATIC = replace("adapter", "vfm_adapter"), change("adapter.hypernet", "none")


def arms(profile: str) -> list[Arm]:
    """The whole method first, then with less and less of it."""
    return [
        Arm(name="input-aware", edits=(VFM,), paper={"mAP": 43.5}),
        Arm(name="input-independent", edits=(VFM, change("adapter.hypernet", "independent")), paper={"mAP": 42.2}),
        Arm(name="HOM only", edits=(VFM, STATIC), paper={"mAP": 42.2}),
        Arm(name="no HOM", edits=(VFM, STATIC, remove("adapter.hom")), paper={"mAP": 40.1}),
        FIXED,
        FULL,
    ]


STUDY = Study(
    name="ablate_vfm_adapter",
    question="What carries VFM-Adapter?",
    arms=arms,
    paper_note="Paper: VFM-Adapter, COCO detection, SAM-B; that its first row is the bottleneck without convolution is "
    "our reading.",
)

if __name__ == "__main__":
    main(STUDY)
