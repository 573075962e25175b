"""Errors as lines for standard error; a mistake in a sweep file with its line, the line itself and what helps."""

from __future__ import annotations

import textwrap

from scalectl.core.errors import SweepFileError

HANGING = "  "  # before what goes on from the line above


def lines(error: SweepFileError, width: int = 80) -> list[str]:
    """Every mistake, then how many there are; for standard error.

    Args: width: sentences break there; a line of the file is shown as it is.
    """
    found: list[str] = []
    for problem in error.problems:
        place = f"{error.path}:{problem.line}" if problem.line else error.path
        found += hung(f"error: {place}  {problem.what}", width)
        shown = [f"  {line}" for line in (problem.snippet or "").splitlines()]
        if problem.remedy and shown and len(shown[-1]) + 1 + len(problem.remedy) <= width:  # beside the carets
            shown[-1] += f" {problem.remedy}"
        elif problem.remedy:
            shown += [HANGING + line for line in hung(problem.remedy, width - len(HANGING))]
        found += shown
    count = len(error.problems)
    found.append(f"{count} error{'s' * (count != 1)}. Nothing was started.")
    return found


def hung(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, but for a path that is longer; what goes on is indented."""
    found = []
    for part in text.split("\n"):
        found += textwrap.wrap(part, width, subsequent_indent=HANGING, break_long_words=False, break_on_hyphens=False)
    return found
