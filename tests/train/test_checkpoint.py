"""Checkpoints hold everything a run needs, and run no code."""

import hashlib
import io
import pickle

import pytest
import torch

from scalectl.core.job import Job, Placement
from scalectl.store.layout import open_store
from scalectl.store.live import live
from scalectl.train import checkpoint
from scalectl.train.loop import Trainer


@pytest.fixture
def folder(tmp_path):
    store = open_store(tmp_path)
    store.prepare()
    found = live(store, "0123456789abcdef")
    found.folder.mkdir(parents=True)
    return found


def test_a_checkpoint_returns_what_was_saved(make_run, folder):
    run = make_run()
    trainer = Trainer(Job((run,), Placement()))
    for _ in range(3):
        trainer.step()
    saved = trainer.progress(run.run_id)
    assert checkpoint.load(folder) is None
    checkpoint.save(folder, saved)
    held = checkpoint.load(folder)
    assert torch.equal(held.row.theta, saved.row.theta)
    assert all(torch.equal(a, b) for a, b in zip(held.row.slots, saved.row.slots, strict=True))
    assert (held.step, held.train_sum, held.train_count, held.last_loss) == (
        saved.step, saved.train_sum, saved.train_count, saved.last_loss,
    )  # fmt: skip


def test_a_hostile_pickle_is_refused_without_being_run(folder, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    folder.checkpoint.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(checkpoint.DamagedCheckpoint):
        checkpoint.load(folder)
    buffer = io.BytesIO()
    torch.save({"version": 1, "x": Hostile()}, buffer)
    digest = hashlib.sha256(buffer.getvalue()).digest()
    folder.checkpoint.write_bytes(checkpoint.MAGIC + digest + buffer.getvalue())  # whole, but hostile
    with pytest.raises(checkpoint.DamagedCheckpoint):
        checkpoint.load(folder)
    assert not (tmp_path / "was-here").exists()


def test_a_checkpoint_that_is_cut_short_or_has_one_bit_flipped_is_damaged(make_run, folder):
    run = make_run()
    checkpoint.save(folder, Trainer(Job((run,), Placement())).progress(run.run_id))
    whole = folder.checkpoint.read_bytes()
    for place in (3, 30, len(whole) // 2, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        folder.checkpoint.write_bytes(flipped)
        with pytest.raises(checkpoint.DamagedCheckpoint, match="cannot be read"):
            checkpoint.load(folder)
    folder.checkpoint.write_bytes(whole[:-100])
    with pytest.raises(checkpoint.DamagedCheckpoint, match="cannot be read"):
        checkpoint.load(folder)
    folder.checkpoint.write_bytes(whole)
    assert checkpoint.load(folder).step == 0
