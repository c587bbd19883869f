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


def recipe(profile: str) -> tuple[Edit, ...]:
    """At paper scale the authors' own recipe for ADE20K: two deconvolutions, AdamW 2e-4, 40k iterations of batch 16."""
    if profile == "demo":
        return ()
    train = {"num_steps": 40_000, "learning_rate": 2e-4, "weight_decay": 1e-2, "warmup_steps": 1500}
    train |= {"clip_grad_norm": None}
    edits = (change("task", "segmentation"), replace("head", "deconv"), change("head.num_groups", 32))
    return (
        *edits,
        change("train.schedule", "poly"),
        *(change(f"train.{name}", value) for name, value in train.items()),
    )


STUDY = Study(name="ablate_vit_split", question="What carries ViT-Split?", arms=arms, recipe=recipe)

if __name__ == "__main__":
    main(STUDY)
