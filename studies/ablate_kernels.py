"""Which set of kernel sizes should SIGMA's scale-adaptive fusion have?

Run:     python -m studies.ablate_kernels               (--dry-run prints the plan)
Cost:    demo: 30 trials, about 9 minutes on 2 CPU cores. paper: 30 trials of 160k iterations on a ViT-B.
Decides: the default `kernel_sizes`.
"""

from sigma_ray.study import Arm, Study, change
from studies._references import FIXED, FULL
from trainables.cli import main

KERNELS = ((3, 5, 7), (3,), (5,), (7,), (3, 5), (5, 7), (1, 3, 5), (3, 5, 7, 9))


def arms(profile: str) -> list[Arm]:
    """One arm a kernel set, the default first."""
    sets = [Arm(name=f"kernels {','.join(map(str, k))}", edits=(change("adapter.kernel_sizes", k),)) for k in KERNELS]
    return [*sets, FIXED, FULL]


STUDY = Study(
    name="ablate_kernels",
    question="Which kernel sizes should SIGMA's fusion have?",
    arms=arms,
)

if __name__ == "__main__":
    main(STUDY)
