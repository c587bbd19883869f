"""How a batch is shared among workers, and cut to fit their memory."""

from sigma_ray.config import TrialConfig


def can_divide(config: TrialConfig, divisor: int) -> bool:
    """Whether batches that are already cut into `divisor` parts can be cut further, in training or in evaluation."""
    share = config.train.batch_size // config.num_workers
    return max(config.train.micro_batch_size or share, config.train.eval_batch_size) > divisor
