"""Pre-train the bundled backbone `scenes_tiny`: supervised dense labels on source-domain scenes, with Ray Train.

Run:     python -m trainables.pretrain                  (writes sigma_ray/weights/scenes_tiny.safetensors and .json)
Cost:    about 10 minutes on one CPU core.

The network that is trained is a trial like any other (adapter `full`, random initialisation), run by the same worker
loop; only its backbone is kept. Afterwards the same head is trained on frozen features of target-domain scenes, once
with the new weights and once with random ones, and both numbers go into the model card: a backbone whose features
are no better than random ones is not worth shipping.
"""

import dataclasses
import json
import logging
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from sigma_ray import fingerprint, profiles
from sigma_ray.config import BackboneConfig, TrainConfig, TrialConfig, component, to_dict, trial_key
from trainables.trial import FINAL_FILE, MODEL_FILE, Spec, execute
from trainables.workers import work

NAME = "scenes_tiny"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """How to pre-train.

    Attributes:
        num_steps: optimisation steps.
        num_train: source scenes.
        num_workers: Ray Train workers, one CPU each.
        seed: seed of initialisation and data order.
        output: folder for the weights and their card.
    """

    num_steps: int = 3_000
    num_train: int = 16_000
    num_workers: int = 1
    seed: int = 0
    output: str = str(fingerprint.BUNDLED)


def recipe(flags: Flags) -> TrialConfig:
    """The pre-training run as a trial."""
    return TrialConfig(
        backbone=BackboneConfig(name=NAME, weights=None),
        adapter=component("adapter", "full"),
        head=component("head", "deconv", channels=48),
        data=component("data", "scenes", domain="source", num_train=flags.num_train),
        train=TrainConfig(
            num_steps=flags.num_steps,
            batch_size=32,
            learning_rate=2e-3,
            warmup_steps=flags.num_steps // 12,
            eval_interval=max(1, flags.num_steps // 24),
            log_interval=100,
            select="last",
        ),
        seed=flags.seed,
        num_workers=flags.num_workers,
    )


def main(flags: Flags) -> None:
    """Pre-train, probe, and write weights and card."""
    output = Path(flags.output)
    output.mkdir(parents=True, exist_ok=True)
    config = recipe(flags)
    key = trial_key(config, data_fingerprint="source scenes", weights_fingerprint="random")
    folder = output.absolute() / f".pretrain-{key}"
    spec = Spec(key=key, arm="pretrain", seed=flags.seed, config=to_dict(config), folder=str(folder / "trial"))
    final = _train(spec, folder)
    path = _export(folder / "trial" / MODEL_FILE, output)
    print(f"source scenes: test mIoU {final['test/miou']:.3f}; probing frozen features on target scenes ...")
    probes = {name: _probe(weights) for name, weights in (("pretrained", str(path)), ("random", None))}
    card = _card(flags, config, path, final, probes)
    (output / f"{NAME}.json").write_text(json.dumps(card, indent=2) + "\n")
    shutil.rmtree(folder)
    print(
        f"frozen-feature probe on target scenes, test mIoU: {probes}\nwrote {path} ({path.stat().st_size / 1e6:.1f} MB)"
    )


def _train(spec: Spec, folder: Path) -> dict[str, Any]:
    """Run the trial on Ray Train workers; a second call goes on from the last checkpoint."""
    import ray
    from ray.train import RunConfig, ScalingConfig, UserCallback
    from ray.train.torch import TorchConfig, TorchTrainer

    class Show(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            for point in metrics[0]["points"]:
                if "val/miou" in point:
                    print(f"step {point['step']}: source val mIoU {point['val/miou']:.3f}", flush=True)

    ray.init(address="local", logging_level=logging.ERROR)
    try:
        result = TorchTrainer(
            work,
            train_loop_config={"spec": dataclasses.asdict(spec), "memory_divisor": 1},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=spec.config["num_workers"]),
            run_config=RunConfig(name=spec.key, storage_path=str(folder / "ray"), callbacks=[Show()]),
        ).fit()
    finally:
        ray.shutdown()
    final = Path(spec.folder) / FINAL_FILE
    if not final.is_file():
        sys.exit(f"pre-training failed: {result.error or 'see the output above'}")
    return json.loads(final.read_text())


def _export(trained: Path, output: Path) -> Path:
    """Keep the trained backbone, under timm's names."""
    from safetensors.torch import load_file, save

    from sigma_ray.files import write_atomically

    tensors = {
        name.removeprefix("backbone."): t for name, t in load_file(trained).items() if name.startswith("backbone.")
    }
    path = output / f"{NAME}.safetensors"
    write_atomically(path, save(tensors, {"format": "pt"}))
    return path


def _probe(weights: str | None) -> float:
    """Test mIoU of the demo's head on frozen features, trained as the demo's `fixed` arm is."""
    demo = profiles.demo()
    config = dataclasses.replace(
        demo, backbone=BackboneConfig(name=NAME, weights=weights), adapter=component("adapter", "fixed")
    )
    reports: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        spec = Spec(key="probe", arm="fixed", seed=0, config=to_dict(config), folder=folder)
        execute(spec, reports.append)
    if "final" not in reports[-1]:
        sys.exit(f"the probe failed: {reports[-1].get('failure')}")
    return round(reports[-1]["final"]["test/miou"], 4)


def _card(
    flags: Flags, config: TrialConfig, path: Path, final: dict[str, Any], probes: dict[str, float]
) -> dict[str, Any]:
    from sigma_ray import backbone

    loaded = backbone.load(NAME, None)
    return {
        "name": NAME,
        "sha256": fingerprint.file_sha256(path),
        "description": "A ViT (d=96, 6 blocks, 3 heads, patch 8, one class token) trained with dense semantic labels "
        "on procedural source-domain scenes. A supervised dense backbone for demonstrations and tests; it has seen no "
        "photograph.",
        "mean": loaded.mean,
        "std": loaded.std,
        "parameters": sum(p.numel() for p in loaded.parameters()),
        "source_test_miou": round(final["test/miou"], 4),
        "probe_target_test_miou": probes,
        "probe": "head of the demo profile on frozen features, trained as the demo's `fixed` arm, seed 0",
        "command": f"python -m trainables.pretrain --num-steps {flags.num_steps} --num-train {flags.num_train} "
        f"--num-workers {flags.num_workers} --seed {flags.seed}",
        "recipe": to_dict(config),
        "licence": "the project's; trained on generated data only",
    }


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
