"""The mistakes of a sweep file, each with its line, the line itself and what helps."""

from __future__ import annotations

from scalectl.core.errors import SweepFileError


def lines(error: SweepFileError) -> list[str]:
    """Every mistake, then how many there are; for standard error."""
    found = []
    for problem in error.problems:
        place = f"{error.path}:{problem.line}" if problem.line else error.path
        found.append(f"error: {place}  {problem.what}")
        shown = [f"  {line}" for line in (problem.snippet or "").splitlines()]
        if problem.remedy:  # beside the carets, or alone
            shown = [*shown[:-1], f"{shown[-1]} {problem.remedy}"] if shown else [f"  {problem.remedy}"]
        found += shown
    count = len(error.problems)
    found.append(f"{count} error{'s' * (count != 1)}. Nothing was started.")
    return found
