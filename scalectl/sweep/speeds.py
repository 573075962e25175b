"""Speeds that a probe measured on this machine, and the cache that keeps them between commands.

A measurement is of a shape: model, optimiser, batch and precision, never the data. It holds for one version of the
engine's code, of torch, and one machine; with any of them another, the cache says nothing. Nothing of it enters an
identity: it orders, groups and predicts.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

import scalectl
from scalectl.core.cache import cache_folder, keep, recall
from scalectl.core.job import Placement
from scalectl.core.machine import cpu_name
from scalectl.core.run import RunConfig, canonical

ENGINE = (
    "models",
    "optim",
    *(f"train/{name}.py" for name in ("device", "engine", "graph", "loop", "population", "probe", "scaling")),
)
KIND = "speeds"  # folder of the cache
PAYS = 1.02
"""Least speed of a pack, in its models' own speed alone, for it to be worth anything. Ours: medians of a probe repeat
within 2 %, and a pack that gains less gains nothing else."""


@dataclass(frozen=True)
class Point:
    """A pack of k models.

    step: seconds of one training step; evaluation: seconds per held-out token, for all k together; memory: peak above
    the bare process [bytes], None where it could not be seen.
    """

    k: int
    step: float
    evaluation: float
    memory: int | None


@dataclass(frozen=True)
class Measured:
    """What a probe found for one shape: points by ascending k, the first of them alone."""

    points: tuple[Point, ...]

    def seconds(self, k: int, evaluated: float = 0.0) -> float:
        """Seconds of one step of k models.

        Args: k: between measured points on the line through them, beyond the last in proportion; evaluated: held-out
        tokens a step, its evaluations spread over its steps.
        """
        return _between([(p.k, p.step + evaluated * p.evaluation) for p in self.points], k)

    def memory(self, k: int) -> float | None:
        """Peak memory of a pack of k [bytes], if it was measured."""
        known = [(p.k, float(p.memory)) for p in self.points if p.memory is not None]
        return _between(known, k) if known else None

    def best(self, evaluated: float = 0.0) -> int:
        """The fastest pack that was measured; 1 where no pack is faster than its models alone by `PAYS`."""
        rates = {p.k: p.k / self.seconds(p.k, evaluated) for p in self.points}
        fastest = max(rates, key=lambda k: (rates[k], -k))
        return fastest if rates[fastest] >= PAYS * self.speed(evaluated) else 1

    def speed(self, evaluated: float = 0.0) -> float:
        """Steps a second of a model alone."""
        return 1 / self.seconds(1, evaluated)


def _between(points: list[tuple[int, float]], k: int) -> float:
    """The value at k: on the line between its neighbours, in proportion beyond either end."""
    at = bisect_left(points, (k, 0.0))
    if at == len(points) or (at == 0 and points[0][0] != k):
        known, value = points[min(at, len(points) - 1)]
        return value * k / known
    if points[at][0] == k:
        return points[at][1]
    (low, before), (high, after) = points[at - 1], points[at]
    return before + (after - before) * (k - low) / (high - low)


def shape_key(run: RunConfig) -> Hashable:
    """What the speed of a run depends on, within one sweep: all but data, seed, rates, schedule and length."""
    return (run.model, run.optim.name, run.optim.version, run.sequences, run.precision)


@dataclass(frozen=True)
class Cache:
    """Measurements of one machine, one version of the engine and one placement, in the user's cache.

    device: its model as the driver names it.
    """

    device: str
    placement: Placement

    def load(self, runs: Iterable[RunConfig]) -> dict[Hashable, Measured]:
        """What is known about these runs, by `shape_key`. What is damaged says nothing, as if it were missing."""
        found = {}
        for key, run in {shape_key(run): run for run in runs}.items():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                found[key] = measured_from(recall(KIND, self._key(run)))
        return found

    def save(self, run: RunConfig, measured: Measured) -> str:
        """Keep a measurement. Returns: why it could not be kept, empty if it was."""
        keep(KIND, self._key(run), asdict(measured))
        if self.load([run]):
            return ""
        return f"the measured speeds cannot be kept in {cache_folder()}: SCALECTL_CACHE names another folder"

    def _key(self, run: RunConfig) -> str:
        return json.dumps(self._about(run), sort_keys=True)

    def _about(self, run: RunConfig) -> dict[str, Any]:
        return {
            "model": canonical(run.model),
            "optim": [run.optim.name, run.optim.version],
            "sequences": run.sequences,
            "precision": run.precision,
            "micro_batch": self.placement.micro_batch,
            "threads": self.placement.threads,
            "recompute": self.placement.recompute,
            "compile": self.placement.compile,
            "graph": self.placement.graph,
            "device": self.device,
            "cores": os.cpu_count(),
            "cpu": cpu_name(),
            "torch": importlib.metadata.version("torch"),
            "engine": engine_version(),
        }


@functools.cache
def engine_version() -> str:
    """Digest of the source that a training step runs through: another text may have another speed."""
    root = Path(scalectl.__file__).parent
    digest = hashlib.sha256()
    for name in ENGINE:
        for path in sorted((root / name).rglob("*.py")) or [root / name]:
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def measured_from(content: Mapping[str, Any]) -> Measured:
    """A measurement from its JSON.

    Raises: KeyError, TypeError or ValueError if it is none.
    """
    points = [
        Point(int(p["k"]), float(p["step"]), float(p["evaluation"]), None if p["memory"] is None else int(p["memory"]))
        for p in content["points"]
    ]
    ks = [p.k for p in points]
    if (
        not points
        or ks[0] != 1
        or ks != sorted(set(ks))
        or not all(0 < p.step < inf and 0 <= p.evaluation < inf for p in points)
    ):
        raise ValueError("no measurement")
    return Measured(tuple(points))
