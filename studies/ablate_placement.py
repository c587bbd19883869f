"""Where must SIGMA sit: after attention, after feed-forward, or both; in which blocks?

Run:     python -m studies.ablate_placement             (--dry-run prints the plan)
Cost:    demo: 24 trials, about 8 minutes on 2 CPU cores.
Decides: which modules may be saved, and whether early blocks need any.
"""

from sigma_ray.study import Arm, Study, change, remove
from studies._references import FIXED, FULL
from trainables.cli import main


def arms(profile: str) -> list[Arm]:
    """Everywhere first, then one side of every block, then half of the blocks."""
    halves = {"first half": "first_half", "last half": "last_half", "every second block": "every_second"}
    return [
        Arm(name="everywhere"),
        Arm(name="after attention", edits=(remove("adapter.ffn"),)),
        Arm(name="after FFN", edits=(remove("adapter.attn"),)),
        *(Arm(name=name, edits=(change("adapter.blocks", value),)) for name, value in halves.items()),
        FIXED,
        FULL,
    ]


STUDY = Study(name="ablate_placement", question="Where must SIGMA sit?", arms=arms)

if __name__ == "__main__":
    main(STUDY)
