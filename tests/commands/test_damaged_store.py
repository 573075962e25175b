"""Damage and foreign things in a store are named by every command that reads it, and stop none of them."""

import json
import shutil

import pytest


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of the results in which one run file is truncated, and the id of that run."""
    folder = shutil.copytree(trained, tmp_path / "copy")
    path = min((folder / "results/runs").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:500])
    return folder, path.stem


@pytest.mark.parametrize("reader", [["status"], ["report", "tiny"], ["fit", "tiny"]])
def test_a_damaged_run_is_named_by_the_command_that_finds_it_and_by_those_after_it(damaged, scalectl, reader):
    folder, run_id = damaged
    for _ in range(2):
        notes = json.loads(scalectl(*reader, "--json", cwd=folder).stdout)["notes"]
        assert [note for note in notes if "damaged" in note] == [
            note for note in notes if note.startswith(f"{run_id}.parquet is damaged")
        ]
        assert len([note for note in notes if "damaged" in note]) == 1
        assert run_id in scalectl(*reader, cwd=folder).stdout.replace("\n", " ")
    assert (folder / f"results/quarantine/{run_id}.parquet").exists()
    assert run_id in scalectl("doctor", cwd=folder, code=5).stdout
    scalectl("sweep", "tiny.toml", cwd=folder)
    assert "damaged" not in scalectl(*reader, cwd=folder).stdout
    scalectl("doctor", cwd=folder)
