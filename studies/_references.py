"""Arms that every study shows beside its own: the backbone left as it is, and all of it tuned."""

from sigma_ray.study import Arm, change, replace

FIXED = Arm(name="fixed", edits=(replace("adapter", "fixed"),))
FULL = Arm(name="full", edits=(replace("adapter", "full"), change("train.backbone_lr_scale", 0.1)))
