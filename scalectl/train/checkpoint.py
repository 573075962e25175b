"""A run's progress on disk (`train.sealed`)."""

from __future__ import annotations

from scalectl.core.errors import StoreError
from scalectl.store.live import Live
from scalectl.train import scaling
from scalectl.train.loop import Progress
from scalectl.train.population import Row
from scalectl.train.sealed import Broken, seal, unseal

VERSION = 2  # 2 added the loss scale, of fp16 alone
MAGIC = b"scalectl-checkpoint\n"


class DamagedCheckpoint(StoreError):
    """A checkpoint that cannot be read; the run can only start again."""


def save(live: Live, progress: Progress) -> None:
    """Replace the run's checkpoint, atomically."""
    content = {
        "version": VERSION,
        "step": progress.step,
        "theta": progress.row.theta,
        "slots": list(progress.row.slots),
        "scaling": progress.row.scaling,
        "train_sum": progress.train_sum,
        "train_count": progress.train_count,
        "last_loss": progress.last_loss,
        "seconds": progress.seconds,
        "device_seconds": progress.device_seconds,
        "split": progress.split,
    }
    live.save_checkpoint(seal(MAGIC, content))


def load(live: Live) -> Progress | None:
    """Where the run stood at its last checkpoint; None if it has none.

    Raises: DamagedCheckpoint if it cannot be read, StoreError if it is of a newer version.
    """
    if not live.checkpoint.exists():
        return None
    try:
        held = unseal(MAGIC, live.checkpoint.read_bytes())
    except Broken as error:
        raise _damaged(live, str(error)) from error
    if held["version"] > VERSION:
        raise StoreError(
            f"the checkpoint of run {live.run_id} was written by a newer scalectl",
            where=str(live.checkpoint),
            remedy="upgrade scalectl, or remove the file to start the run again",
        )
    return Progress(
        step=held["step"],
        row=Row(held["theta"], tuple(held["slots"]), held.get("scaling", scaling.fresh("fp32"))),
        train_sum=held["train_sum"],
        train_count=held["train_count"],
        last_loss=held["last_loss"],
        seconds=held["seconds"],
        split=held.get("split", 0),  # absent before there were trunks
        device_seconds=held.get("device_seconds", held["seconds"]),  # absent before packs were shared out
    )


def _damaged(live: Live, why: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"the checkpoint of run {live.run_id} cannot be read ({why})",
        where=str(live.checkpoint),
        remedy="the run starts again from step 0",
    )
