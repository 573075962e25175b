"""Every error that scalectl raises on purpose.

    ScalectlError                exit 1   some runs failed, a fit is unusable
    ├── UsageError               exit 2   a flag, a name, a column that is not there
    │   ├── DataError            exit 2   a corpus, token file or tokeniser that cannot be used
    │   ├── ExpressionError      exit 2   a rule, constraint or --where that cannot be read
    │   └── SweepFileError       exit 2   a sweep file with one or more problems, all of them listed
    ├── NothingMatched           exit 3   no run, no row, no sweep answers to the request
    ├── FitError                 exit 1   points that no law can be fitted to
    ├── BudgetRefused            exit 4   the plan costs more than its budget or the disk allows
    ├── DeviceError              exit 1   a GPU that no longer answers; its process has to end
    └── StoreError               exit 5   the store cannot be read
        └── StoreBusy            exit 75  another process holds what this one needs

An error is three parts: what was found, where, and the command or edit that helps.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

# EFBIG is what a file-size limit (RLIMIT_FSIZE, some quotas) answers; for the user it is a full disk like the others.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, is that of a full disk, a quota or a file-size limit."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


class ScalectlError(Exception):
    """An error with a place and a remedy; the command line prints it in at most three lines."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.where, self.remedy) if part)


class UsageError(ScalectlError):
    """The request itself cannot be understood."""

    exit_code = 2


class DataError(UsageError):
    """Data that are missing, damaged or not what they are said to be.

    key: of [data] in a sweep file, the one that names them.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None, key: str = "source") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.key = key


class ExpressionError(UsageError):
    """A rule, constraint or filter outside the small grammar of `core.expression`.

    column: where in the expression, 1-based; None if it is not one place.
    """

    def __init__(
        self, what: str, *, where: str | None = None, remedy: str | None = None, column: int | None = None
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.column = column


@dataclass(frozen=True)
class Problem:
    """One mistake in a sweep file: its line (1-based, None for the whole file), what, and what helps."""

    line: int | None
    what: str
    remedy: str | None = None
    snippet: str | None = None


class SweepFileError(UsageError):
    """All the mistakes of one sweep file at once."""

    def __init__(self, path: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(f"{path}: {len(problems)} error{'s' * (len(problems) != 1)}")
        self.path = path
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(f"{self.path}:{p.line or 1}  {p.what}" for p in self.problems)


class NothingMatched(ScalectlError):
    """The request is sound, and nothing answers to it."""

    exit_code = 3


class FitError(ScalectlError):
    """The points cannot determine the law at all: too few, all alike, or not finite and positive."""


class BudgetRefused(ScalectlError):
    """Starting would break the budget of the sweep file or fill the disk."""

    exit_code = 4


class DeviceError(ScalectlError):
    """A device failed under the process that uses it; another process may find it well again."""


class StoreError(ScalectlError):
    """The store is damaged or was written by a newer scalectl."""

    exit_code = 5


class StoreBusy(StoreError):
    """Another process holds a claim that this one needs."""

    exit_code = 75
