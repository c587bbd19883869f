"""Arms that every study shows beside its own: the backbone left as it is, and all of it tuned."""

from sigma_ray.study import Arm, change, replace

GENTLE = change("train.backbone_lr_scale", 0.1)
"""Pre-trained weights are tuned at a tenth of the rate, as ViT-Split does; new ones at the full rate."""

FIXED = Arm(name="fixed", edits=(replace("adapter", "fixed"),))
FULL = Arm(name="full", edits=(replace("adapter", "full"), GENTLE))
