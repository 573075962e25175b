"""An imported table in a report: its own columns are what it says, and nothing is said twice or left empty."""

from __future__ import annotations

import shutil

import pytest

from scalectl.commands import report
from scalectl.commands.exchange import bring
from scalectl.commands.fit import Request
from scalectl.report.build import build_report


@pytest.fixture
def imported(tmp_path):
    """A report of three sizes at two learning rates, each with two seeds."""
    table, results = tmp_path / "theirs.csv", str(tmp_path / "results")
    rows = [(N, lr, seed) for N in (10, 20, 40) for lr in (0.1, 0.2) for seed in (0, 1)]
    lines = [f"{N}000,{N}0000,{3 - N / 100 + lr + seed / 100:.3f},{lr},{seed}" for N, lr, seed in rows]
    table.write_text("\n".join(["size,tokens,loss,lr,seed", *lines]))
    first = bring(str(table), results, maps=("N=size",))
    again = bring(str(table), results, maps=("N=size",))
    view = report.run(Request("theirs", results, draws=0))
    return first, again, view


def test_importing_again_counts_the_runs_as_known(imported):
    first, again, _ = imported
    assert ((first.runs, first.known), (again.runs, again.known)) == ((12, 0), (0, 12))


def test_mapped_columns_are_no_axes_of_the_grid_and_nothing_empty_is_shared(imported):
    view = imported[2]
    assert {axis.key: axis.values for axis in view.axes} == {"lr": (0.1, 0.2), "train.seed": (0, 1)}
    assert view.shared == ()
    assert {run.seconds for run in view.runs} == {None}


def test_sizes_that_follow_from_no_setting_are_groups_of_their_own_with_their_seeds(imported):
    groups = build_report(imported[2]).groups
    assert [(group.N, group.cell["lr"], group.n) for group in groups] == [
        (N, lr, 2) for N in (10_000, 20_000, 40_000) for lr in (0.1, 0.2)
    ]


def test_a_grid_that_came_with_a_table_is_not_pooled_either(imported):
    view = imported[2]
    assert view.fits == ()
    assert view.because.startswith("lr varies among these rows at equal N and D")
    assert "import it again with --map seed=lr" in view.because


def test_the_export_of_a_sweep_comes_in_beside_it_and_never_in_its_place(trained, scalectl, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    scalectl("export", "tiny", cwd=folder)
    before = {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}
    error = scalectl("import", "tiny.parquet", cwd=folder, code=2).stderr
    assert "error: tiny is a sweep of its own here" in error
    assert "--name NAME" in error
    assert {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()} == before
    for known in (0, 6):
        said = scalectl("import", "tiny.parquet", "--name", "again", cwd=folder).stdout
        assert f"{6 - known} runs, {known} known before; again" in said


def test_nothing_is_written_where_a_table_cannot_be_used(scalectl, tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    scalectl("import", "x.csv", cwd=tmp_path, code=2)
    assert not (tmp_path / "results").exists()
