"""A whole trial recorded in a ledger."""

from sigma_ray.tracking import Ledger

CONFIG = {"adapter.bottleneck_dim": 8, "train.num_steps": 400}


def one_trial(ledger: Ledger, key: str = "k0", seed: int = 0) -> None:
    """Record a trial with three points."""
    ledger.start(key, "sigma", seed, CONFIG)
    ledger.log(key, [{"step": step, "val/miou": step / 100} for step in (10, 20, 30)])
    ledger.finish(key, {"test/miou": 0.5 + seed, "note": "no number"})
