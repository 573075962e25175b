"""The same facts for machines: one JSON document, first key `schema`, full precision, NaN and infinities as null."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalectl.fit.summary import Summary
from scalectl.report.views import FitView, ThresholdView

if TYPE_CHECKING:
    from scalectl.fit.against import Comparison

VERSION = 1


def document(kind: str, view: Any) -> str:
    """A view as JSON. kind: the verb, `plan` becomes the schema "scalectl/plan@1"."""
    return _dump(kind, _plain(view))


def fit_document(views: Mapping[str, FitView], refused: Mapping[str, str] | None = None) -> str:
    """Fits as JSON; with one view its keys stand at the top, with several (--by) under `groups`.

    Args: views: by group, "" for the only one; refused: groups that could not be fitted, with the reason.
    """
    if len(views) == 1 and "" in views:
        return _dump("fit", _fit(views[""]))
    groups = [{"group": name, **_fit(view)} for name, view in views.items()]
    return _dump("fit", {"groups": groups, **({"refused": refused} if refused else {})})


def threshold_document(view: ThresholdView) -> str:
    """Scores as JSON: the keys that scripts rely on first, then what they rest on."""
    return _dump(
        "threshold",
        {
            "target": view.target,
            "axis": view.axis,
            "measures": view.measures,
            "tasks": [{name: held for name, held in _plain(task).items() if name != "notes"} for task in view.tasks],
            "level": view.level,
            "draws": view.draws,
            "convention": view.convention,
            "notes": view.notes,
        },
    )


def law_facts(held: Summary) -> dict[str, Any]:
    """One fitted law with the keys that scripts rely on."""
    return {
        "law": held.law,
        "formula": held.formula,
        "axis": held.axis,
        "objective": {"name": held.objective, "delta": held.delta, "value": held.value},
        "gradient_norm": held.gradient_norm,
        "starts": held.starts,
        "starts_at_optimum": held.starts_at_optimum,
        "status": held.status,
        "advice": held.advice,
        "n": held.n,
        "sizes": held.sizes,
        "convention": held.convention,
        "flops": held.flops,
        "params": held.params,
        "tied": held.tied,
        "intervals": held.intervals,
        "intervals_by_unit": held.intervals_by_unit,
        "profile": held.profile,
        "level": held.level,
        "unit": held.unit,
        "draws": held.draws,
        "identified": held.identified if held.draws else dict.fromkeys(held.identified),  # not judged without draws
        "aicc": held.aicc,
        "holdout": [dataclasses.asdict(part) for part in held.holdout],
        "doubling": held.doubling,
        "optimal": held.optimal,
        "optimal_intervals": held.optimal_intervals,
        "seed_noise": held.seed_noise,
        "misfit": held.misfit,
        "outliers": held.outliers,
        "without_outliers": held.without_outliers,
    }


def _fit(view: FitView) -> dict[str, Any]:
    return {
        "target": view.target,
        "fits": [law_facts(held) for held in view.fits],
        "chosen": view.chosen,
        "because": view.because,
        "seeds": view.seeds,
        "fixed": view.fixed,
        "derived": view.derived,
        "best_over": view.best_over,
        "notes": view.notes,
        **({"diagnosis": view.diagnosis} if view.diagnosis is not None else {}),
        **({"profiles": view.profiles} if view.profiles else {}),
        **({"approaches": view.approaches} if view.approaches else {}),
        **({"refused_approaches": view.refused_approaches} if view.refused_approaches else {}),
        **({"against": [_against(held) for held in view.against]} if view.against else {}),
        **({"stated": view.stated} if view.stated else {}),
    }


def _against(held: Comparison) -> dict[str, Any]:
    return {
        "name": held.name,
        "law": held.ours.law.name,
        "objective": str(held.ours.objective),
        "where": held.where,
        "n": len(held.ours.points),
        "theirs": {
            "params": held.theirs, "value": held.value, "value_within_rounding": held.rounded, "stated": held.stated,
        },
        "ours": {"params": held.ours.theta, "value": held.ours.value},
        "excess": held.excess,
        "at_optimum": held.at_optimum,
    }  # fmt: skip


def _dump(kind: str, facts: Mapping[str, Any]) -> str:
    return json.dumps({"schema": f"scalectl/{kind}@{VERSION}", **_plain(facts)}, allow_nan=False, indent=1)


def _plain(value: Any) -> Any:
    """Plain JSON data."""
    if isinstance(value, Summary):
        return _plain(law_facts(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, tuple | list):
        return [_plain(held) for held in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value
