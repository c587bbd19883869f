"""What carries ViT-Split: task head, prior head or their fusion; how many blocks, and which?

Run:     python -m studies.ablate_vit_split             (--dry-run prints the plan)
Cost:    demo: 33 trials, about 11 minutes on 2 CPU cores.
Decides: how many blocks to copy and to read, and how to choose them.
"""

from sigma_ray.study import Arm, Edit, Study, change, replace
from studies._references import FIXED, FULL, GENTLE
from trainables.cli import main

SPLIT = (replace("adapter", "vit_split"), GENTLE)


def arms(profile: str) -> list[Arm]:
    """The published choice for a ViT-B (K_t = 3, K_p = 4, uniform from block 2) first."""
    # From block 2 on, the demo's six blocks leave nothing to choose: uniform would be the last four.
    split = (*SPLIT, change("adapter.start", 0 if profile == "demo" else 2))

    def with_option(path: str, value: object) -> tuple[Edit, ...]:
        return (*split, change(f"adapter.{path}", value))

    return [
        Arm(name="both, fused", edits=split),
        Arm(name="both, added", edits=with_option("parts", "sum")),
        Arm(name="task only", edits=with_option("parts", "task")),
        Arm(name="prior only", edits=with_option("parts", "prior")),
        Arm(name="K_t = 1", edits=with_option("num_task_blocks", 1)),
        Arm(name="K_t = 2", edits=with_option("num_task_blocks", 2)),
        Arm(name="K_p = 2", edits=with_option("num_prior_blocks", 2)),
        Arm(name="last layers", edits=with_option("selection", "last")),
        Arm(name="sparse gate", edits=with_option("selection", "sparse_gate")),
        FIXED,
        FULL,
    ]


STUDY = Study(name="ablate_vit_split", question="What carries ViT-Split?", arms=arms)

if __name__ == "__main__":
    main(STUDY)
