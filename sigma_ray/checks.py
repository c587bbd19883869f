"""Checks of plain configuration values; each raises one `ValueError` that says rule, value and way out.

This module imports nothing heavy, because every `Config` class uses it and the command line must answer at once.
"""

from collections.abc import Iterable


def positive(name: str, value: float) -> None:
    """Require `value` > 0."""
    if not value > 0:
        raise ValueError(f"{name} must be greater than 0, but got {value!r}; set it to a positive number.")


def non_negative(name: str, value: float) -> None:
    """Require `value` >= 0."""
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or greater, but got {value!r}; set it to 0 to switch it off.")


def fraction(name: str, value: float) -> None:
    """Require 0 <= `value` < 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), but got {value!r}; choose a share such as 0.1.")


def one_of(name: str, value: object, choices: Iterable[object]) -> None:
    """Require `value` to be one of `choices`."""
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {listed}, but got {value!r}.")


def odd(name: str, values: Iterable[int]) -> None:
    """Require every entry of a non-empty list of kernel sizes to be a positive odd number."""
    values = tuple(values)
    if not values or any(value < 1 or value % 2 == 0 for value in values):
        raise ValueError(
            f"{name} must be positive odd numbers, but got {','.join(map(str, values)) or 'none'}; "
            "an even kernel has no centre and would shift the map (use 3,5,7)."
        )
