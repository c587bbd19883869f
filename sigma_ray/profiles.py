"""Profiles: the scale at which a study runs. Same code path, other values."""

from sigma_ray import checks
from sigma_ray.config import BackboneConfig, TrainConfig, TrialConfig, component


def demo() -> TrialConfig:
    """The bundled backbone on generated scenes: minutes on a 2-core CPU, no network.

    The learning rate was chosen on validation (seed 0) for SIGMA and the frozen arm alike.
    """
    return TrialConfig(
        backbone=BackboneConfig(name="scenes_tiny", weights="bundled"),
        adapter=component("adapter", "sigma", bottleneck_dim=8),
        head=component("head", "deconv", channels=48),
        data=component("data", "scenes"),
        train=TrainConfig(num_steps=250, batch_size=16, learning_rate=8e-3, warmup_steps=25, eval_interval=125),
    )


def paper() -> TrialConfig:
    """SIGMA's ADE20K recipe: DINOv2 ViT-B, Mask2Former, 160k iterations of batch 16, AdamW 1e-4, poly decay.

    Learning rate, crop 512, clipping and schedule are MMSegmentation's Mask2Former defaults, which the paper names as
    its source; iterations and batch size are printed in the paper.
    """
    return TrialConfig(
        backbone=BackboneConfig(name="dinov2_base", weights="hub"),
        adapter=component("adapter", "sigma"),
        head=component("head", "mask2former"),
        data=component("data", "folder", image_size=(518, 518), num_classes=150, reduce_zero_label=True),
        train=TrainConfig(
            num_steps=160_000,
            batch_size=16,
            learning_rate=1e-4,
            warmup_steps=1000,
            schedule="poly",
            clip_grad_norm=0.01,
            eval_interval=16_000,
        ),
    )


_PROFILES = {"demo": demo, "paper": paper}


def names() -> list[str]:
    """Names of the profiles."""
    return list(_PROFILES)


def load(name: str) -> TrialConfig:
    """The baseline trial of profile `name`."""
    checks.one_of("profile", name, _PROFILES)
    return _PROFILES[name]()
