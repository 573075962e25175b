"""scalectl: the scaling-law laboratory that runs in a terminal.

In a notebook: `from scalectl import load, frame, fit, confint, predict`, imported when they are asked for: the command
line starts without them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalectl.notebook import confint as confint
    from scalectl.notebook import fit as fit
    from scalectl.notebook import frame as frame
    from scalectl.notebook import load as load
    from scalectl.notebook import predict as predict

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("confint", "frame", "load", "predict"):
        return getattr(importlib.import_module("scalectl.notebook"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
