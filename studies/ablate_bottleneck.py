"""How narrow can SIGMA's bottleneck be before the metric falls?

Run:     python -m studies.ablate_bottleneck            (--dry-run prints the plan)
Cost:    demo: 18 trials, about 5 minutes on 2 CPU cores. paper: 18 trials of 30 COCO epochs on a ViT-B.
Decides: the default `bottleneck_dim`.

The paper's widths 16, 32, 64, 128 are 1/48, 1/24, 1/12, 1/6 of a ViT-B's 768 channels; the demo takes the same shares
of its backbone's 96. Deltas refer to 1/12, the width at which the paper's curve peaks.
"""

from sigma_ray.study import Arm, Study, change
from studies._references import FIXED, FULL
from trainables.cli import main

WIDTHS = {"demo": (8, 2, 4, 16), "paper": (64, 16, 32, 128)}
PAPER = (
    {"mAP": 54.5, "AP50": 74.6},
    {"mAP": 53.2, "AP50": 73.5},
    {"mAP": 54.4, "AP50": 74.6},
    {"mAP": 54.2, "AP50": 74.3},
)


def arms(profile: str) -> list[Arm]:
    """One arm a width, the one that deltas refer to first."""
    widths = [
        Arm(name=f"sigma r={width}", edits=(change("adapter.bottleneck_dim", width),), paper=paper)
        for width, paper in zip(WIDTHS[profile], PAPER, strict=True)
    ]
    return [*widths, FIXED, FULL]


STUDY = Study(
    name="ablate_bottleneck",
    question="How narrow can SIGMA's bottleneck be before the metric falls?",
    arms=arms,
    paper_note="Paper: SIGMA Table 5, COCO detection, widths 16/32/64/128 at 768 channels.",
)

if __name__ == "__main__":
    main(STUDY)
