"""Fits: points and a law to estimates, each with its interval and the courage to say that it is not known.

`from scalectl import fit` gives this package, and calling it is `fit.page.fit`: a notebook wants a verb where the house
has a room of the same name.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalectl.fit.estimate import Fit


class _Verb(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Fit:
        fitted: Fit = importlib.import_module("scalectl.fit.page").fit(*arguments, **options)
        return fitted


sys.modules[__name__].__class__ = _Verb
