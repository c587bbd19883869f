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


def warning(check: str, detail: str, remedy: str) -> Finding:
    """A study can run, but not as it should."""
    return Finding(status="warning", check=check, detail=detail, remedy=remedy)


def problem(check: str, detail: str, remedy: str) -> Finding:
    """A study cannot run, or its results could not be trusted."""
    return Finding(status="problem", check=check, detail=detail, remedy=remedy)


def refused(check: str, error: Exception) -> Finding:
    """An error as a problem; this project's own say the way out behind their last semicolon."""
    text = " ".join(str(error).split())
    detail, _, remedy = text.rpartition("; ") if isinstance(error, ValueError) else ("", "", "")
    return problem(check, detail or f"{type(error).__name__}: {text}"[:500], remedy)
