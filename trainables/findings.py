"""What an examination found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a report: how it is, what was looked at, what was seen, and what to do about it."""

    status: Literal["ok", "warning", "problem"]
    check: str
    detail: str
    remedy: str = ""


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(status="ok", check=check, detail=detail)


def problem(check: str, error: Exception) -> Finding:
    """An error as a finding; this project's own say the way out behind their last semicolon."""
    text = " ".join(str(error).split())
    detail, _, remedy = text.rpartition("; ") if isinstance(error, ValueError) else ("", "", "")
    return Finding(
        status="problem", check=check, detail=detail or f"{type(error).__name__}: {text}"[:500], remedy=remedy
    )
