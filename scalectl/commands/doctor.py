"""`scalectl doctor`: whether this machine is ready to train, and the store whole."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalectl.commands.clean import folders
from scalectl.commands.target import results_store
from scalectl.core import units
from scalectl.core.errors import ScalectlError, StoreError
from scalectl.core.job import State
from scalectl.core.units import counted
from scalectl.executors.local import slots
from scalectl.store.compact import forget
from scalectl.store.evaluations import damaged_evaluations
from scalectl.store.files import leftovers, remove, writing
from scalectl.store.index import damaged_runs, rebuild, refresh
from scalectl.store.keepers import dead_keepers
from scalectl.store.layout import Store
from scalectl.store.live import Standing, live, release_dead, state_of, tidy
from scalectl.store.reader import superseded
from scalectl.store.sweeps import damaged_sweeps, list_sweeps

PACKAGES = ("scalectl", "torch", "numpy", "scipy", "pandas", "pyarrow")
TRAIN = "repeat its sweep, which trains it again, or remove the file"
JUDGE = "repeat scalectl evaluate with this name, which judges it again, or remove the file"


@dataclass(frozen=True)
class Check:
    """One finding. ok: nothing to do; remedy: what helps, if not."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings. damaged: whether the store holds damaged files."""

    checks: tuple[Check, ...]
    damaged: bool


def run(results: str | None, *, remake: bool = False, mend: bool = False) -> Diagnosis:
    """Look at the environment and the store.

    Args: remake: make the index again from every run file, each verified in full; mend: put right what killed processes
    left behind, which needs nobody's decision.
    Raises: StoreError if the store cannot be read.
    """
    store = results_store(results)
    checks = [_versions(), _devices(), _data()]
    damaged = False
    if store.root.is_dir():
        checks += [_space(store), _access(store)]
        flying, unread = _in_flight(store)
        found, damaged = _store(store, flying, unread, remake=remake)
        checks += [*found, *_left_behind(store, flying, mend=mend)]
    else:
        checks.append(Check("store", True, f"{store.root} does not exist yet; the first sweep makes it"))
    return Diagnosis(tuple(checks), damaged)


def _versions() -> Check:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            return Check("packages", False, f"{package} is not installed", "install scalectl again")
    return Check("packages", True, f"Python {platform.python_version()}, {', '.join(found)}")


def _devices() -> Check:
    places = slots()
    kind = "GPU" if places[0].device.startswith("cuda") else "CPU core"
    memory = units.size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Check("devices", True, f"{len(places)} {kind}{'s' * (len(places) != 1)} to train on, {memory} of memory")


def _data() -> Check:
    from scalectl.tasks import text

    try:
        about = text.describe(text.Options("stdlib"))
    except ScalectlError as error:
        return Check("corpus", False, error.what, "install Python with its standard library's source")
    size = units.size(about.train_tokens)
    return Check(
        "corpus", True, f"stdlib of {about.origin}: {size} to train on, {units.size(about.held_out_tokens)} held out"
    )


def _access(store: Store) -> Check:
    if os.access(store.root, os.W_OK):
        return Check("access", True, "the store can be read and written")
    return Check("access", False, f"{store.root} is read-only", "to sweep, name another --results")


def _space(store: Store) -> Check:
    free = shutil.disk_usage(store.root).free
    return Check("disk", free > 1 << 30, f"{units.size(free)} free at {store.root}", "free some space")


def _in_flight(store: Store) -> tuple[dict[str, Standing], list[StoreError]]:
    """How the runs in flight stand, and why some of them cannot be read."""
    found, unread = {}, []
    for run_id in store.in_flight():
        try:
            found[run_id] = state_of(store, run_id)
        except StoreError as error:
            unread.append(error)
    return found, unread


def _store(
    store: Store, flying: Mapping[str, Standing], unread: Sequence[StoreError], *, remake: bool
) -> tuple[list[Check], bool]:
    index = rebuild(store) if remake else refresh(store)
    names = list_sweeps(store)
    for name in names if remake else ():
        forget(store, name)
    broken = {str(damaged): TRAIN for damaged in damaged_runs(store, index)}
    unread = [*unread, *damaged_sweeps(store, names).values()]
    broken |= {f"{error.what} ({error.where})": error.remedy or "" for error in unread}
    if remake:
        broken |= {f"{path}: {why}": JUDGE for path, why in damaged_evaluations(store).items()}
    rebuilt = "index rebuilt" if os.access(store.root, os.W_OK) else "index rebuilt in memory alone"
    verified = f"every file verified, {rebuilt}" if remake else "index up to date; --rebuild verifies every file"
    found = f"{index.table.num_rows} runs, {len(names)} sweeps; {verified}"
    checks = [Check("store", not broken, found)]
    checks += [Check("damage", False, text, remedy) for text, remedy in broken.items()]
    if going := sum(held.state is State.RUNNING for held in flying.values()):
        checks.append(Check("running", True, f"{going} runs are being trained"))
    return checks, bool(broken)


def _left_behind(store: Store, found: Mapping[str, Standing], *, mend: bool) -> list[Check]:
    """What killed processes left: one finding for each kind, put right or with the command that does so."""
    temporary = [entry for folder in folders(store) for entry in leftovers(folder)]
    lost = [run_id for run_id, held in found.items() if held.state is State.LOST]
    claims = [run_id for run_id in lost if (holder := live(store, run_id).holder()) and not holder.released]
    settled = [run_id for run_id, held in found.items() if held.state.final]
    replaced = superseded(store)
    dead: list[Path] = []
    for name in list_sweeps(store):
        with contextlib.suppress(StoreError):  # another user's, who alone can read it
            dead += dead_keepers(store, name)
    if mend:
        for entry in temporary:
            remove(entry)
        for run_id in claims:
            release_dead(store, run_id)
        tidy(store, settled)
        for path in (*replaced, *dead):
            with writing(path):
                path.unlink(missing_ok=True)
    kinds = {
        "temporary": (len(temporary), "temporary file", "of killed writers"),
        "claims": (len(claims), "run", "held by a dead process"),
        "folders": (len(settled), "folder", "of a finished run still there"),
        "quarantine": (len(replaced), "damaged file", "whose run has a good one again"),
        "keepers": (len(dead), "orchestrator", "that was killed still listed"),
    }
    checks = [
        Check(name, mend, f"{counted(number, what)} {rest}{': mended' if mend else ''}", "scalectl doctor --mend")
        for name, (number, what, rest) in kinds.items()
        if number
    ]
    if lost:
        checks.append(
            Check("lost", False, f"{counted(len(lost), 'run')} lost their process", "repeat the sweep: they go on")
        )
    return checks
