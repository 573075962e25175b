"""Damage and foreign things in a store or in the way of an output: said or passed over, never a crash."""

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
    assert f"warning: {run_id}.parquet is damaged" in scalectl("sweep", "tiny.toml", cwd=folder).stderr
    assert "damaged" not in scalectl(*reader, cwd=folder).stdout
    scalectl("doctor", cwd=folder)


def test_what_is_no_run_among_the_runs_in_flight_is_passed_over(trained, scalectl, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    for name in (".cache", "with a blank"):
        (folder / "results/live" / name).mkdir()
    (folder / "results/live/notes.txt").write_text("")
    scalectl("doctor", cwd=folder)
    assert "no run begins" in scalectl("logs", "with", cwd=folder, code=3).stderr
    assert "no run begins" in scalectl("logs", "notes", cwd=folder, code=3).stderr


@pytest.mark.parametrize("output", ["nowhere/x.csv", "afile/x.parquet", "afolder.csv"])
def test_an_output_that_cannot_be_written_is_no_damage_of_the_store(trained, scalectl, tmp_path, output):
    folder = shutil.copytree(trained, tmp_path / "copy")
    (folder / "afile").write_text("mine")
    (folder / "afolder.csv").mkdir()
    error = scalectl("export", "tiny", "-o", output, cwd=folder, code=2).stderr
    assert f"{output} cannot be written" in error
    assert "--output FILE" in error
    assert (folder / "afile").read_text() == "mine"


@pytest.mark.parametrize("named", ["afile", "afile/below"])
def test_a_sweep_file_is_not_started_inside_a_file(scalectl, tmp_path, named):
    (tmp_path / "afile").write_text("mine")
    error = scalectl("init", named, cwd=tmp_path, code=2).stderr
    assert "cannot be written" in error
    assert "scalectl init DIR" in error
    assert (tmp_path / "afile").read_text() == "mine"
