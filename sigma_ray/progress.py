"""What a trial has done so far."""

import math
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Progress:
    """What a trial has done so far; saved with every checkpoint."""

    step: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    best_step: int = -1
    best_value: float = math.nan
    points: list[dict[str, float]] = field(default_factory=list)

    def improves(self, value: float, mode: str) -> bool:
        """Whether a validation metric beats the best so far, where more is better ("max") or less; any beats NaN."""
        if math.isnan(self.best_value):
            return not math.isnan(value)
        return value > self.best_value if mode == "max" else value < self.best_value
