"""Tables that people have: what cannot be fitted is said, and a million rows are answered."""

import numpy as np
import pandas as pd
import pytest

from scalectl.commands import compare
from scalectl.commands.fit import Request, run, run_by, thinned, view
from scalectl.core.errors import ScalectlError, UsageError
from scalectl.core.rows import Points

PLACES = [(N, D) for N in (1e5, 1e6, 1e7, 1e8) for D in (1e8, 1e9, 1e10)]
GOOD = [f"{N:g},{D:g},{1.7 + 400 / N**0.34 + 410 / D**0.28:.6f}" for N, D in PLACES]


def fitted(folder, rows, **flags):
    path = folder / "runs.csv"
    path.write_text("\n".join(["N,D,loss", *rows]) + "\n")
    return run(Request(target=str(path), results=str(folder), draws=0, laws=("chinchilla",), **flags))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no row of runs.csv is left"),
        (["1e6,1e8,3.0"], "distinct values of N"),
        ([*GOOD, "1e6,1e8,-3"], "loss is -3 in row 13"),
        ([*GOOD, "0,1e8,3"], "N is 0 in row 13"),
        ([*GOOD, "big,1e8,3"], '"big", which is no number'),
        ([row for row in GOOD if row.startswith("1e+06")], "distinct values of N"),
    ],
)
def test_a_table_that_cannot_be_fitted_says_why(tmp_path, rows, said):
    with pytest.raises(ScalectlError) as error:
        fitted(tmp_path, rows)
    assert said in error.value.what
    assert error.value.remedy or "add sizes" in error.value.what


@pytest.mark.parametrize(("flag", "value"), [("at", "min"), ("all", True)])
def test_what_only_runs_have_is_not_passed_over(tmp_path, flag, value):
    with pytest.raises(UsageError, match=f"--{flag} is for the runs of a sweep"):
        fitted(tmp_path, GOOD, **{flag: value})


def test_an_empty_file_is_no_table(tmp_path):
    (tmp_path / "runs.csv").write_text("")
    with pytest.raises(UsageError, match=r"runs\.csv cannot be read"):
        run(Request(target=str(tmp_path / "runs.csv"), results=str(tmp_path)))


def test_a_missing_number_leaves_its_row_out_and_says_so(tmp_path):
    found = fitted(tmp_path, [*GOOD, "1e6,1e8,nan"])
    assert len(found.points) == len(GOOD)
    assert any("left out for want of a number" in note for note in found.points.notes)
    assert found.answer.fit.theta["alpha"] == pytest.approx(0.34, rel=1e-3)


def test_rows_that_repeat_are_counted_and_said(tmp_path):
    found = fitted(tmp_path, [*GOOD, GOOD[0], GOOD[1], GOOD[1]])
    assert len(found.points) == len(GOOD) + 3
    assert any(note.startswith("3 rows repeat another exactly, in N, D, loss") for note in found.points.notes)
    assert not any("repeat" in note for note in fitted(tmp_path, GOOD).points.notes)


def many(rows):
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(5, 9, rows), 10 ** rng.uniform(7, 11, rows)
    return N, D, (1.7 + 400 / N**0.34 + 410 / D**0.28) * np.exp(rng.normal(0, 0.01, rows))


def test_of_very_many_rows_some_are_fitted_evenly_spread():
    N, D, L = many(50_000)
    held = thinned(Points(L=L, N=N, D=D, notes=("before",)), 1000)
    assert len(held) == 1000
    assert held.notes[0] == "before"
    assert held.notes[1].startswith("50,000 rows: 1,000 of them are fitted")
    deciles = np.quantile(np.log(N), np.linspace(0, 1, 11))
    assert np.histogram(np.log(held.N), deciles)[0] == pytest.approx(np.full(10, 100), abs=2)
    assert {N.min(), N.max()} <= set(held.N)


def test_few_rows_and_all_rows_stay_as_they_are():
    N, D, L = many(100)
    points = Points(L=L, N=N, D=D)
    assert thinned(points, 1000) is points
    assert thinned(points, 0) is points
    with pytest.raises(UsageError, match="--rows -1"):
        thinned(points, -1)


def test_each_group_is_thinned_by_itself(tmp_path):
    N, D, L = many(3000)
    path = tmp_path / "many.parquet"
    pd.DataFrame({"N": N, "D": D, "loss": L, "corpus": np.where(np.arange(3000) < 100, "a", "b")}).to_parquet(path)
    request = Request(target=str(path), results=str(tmp_path), draws=0, laws=("chinchilla",), rows=500)
    assert {name: found.fits[0].n for name, found in run_by(request, "corpus", view).views.items()} == {
        "corpus=a": 100,
        "corpus=b": 500,
    }


def test_groups_of_text_numbers_and_empty_cells_are_groups(tmp_path):
    table = pd.DataFrame({"N": [N for N, _ in PLACES], "D": [D for _, D in PLACES]})
    table["loss"] = 1.7 + 400 / table.N**0.34 + 410 / table.D**0.28
    table["lab"] = ["a", "b", "1", None] * 3
    table.to_csv(tmp_path / "labs.csv", index=False)
    found = run(Request(str(tmp_path / "labs.csv"), str(tmp_path), laws=("chinchilla",), draws=100, group="lab"))
    assert found.answer.summary.sizes == 4


def test_a_grid_to_choose_from_is_not_thinned(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(N, lr, seed) for N in np.geomspace(1e5, 1e7, 6) for lr in (1e-3, 2e-3, 4e-3) for seed in range(20)]
    table = pd.DataFrame(rows, columns=["N", "lr", "seed"])
    table["loss"] = (
        4 * (table.N / 1e5) ** -0.1 * np.exp(np.log2(table.lr / 2e-3) ** 2 / 50 + rng.normal(0, 0.002, len(rows)))
    )
    table.to_csv(tmp_path / "rates.csv", index=False)
    flags = {"laws": ("power",), "draws": 0, "best_over": "lr", "rows": 100}
    found = run(Request(str(tmp_path / "rates.csv"), str(tmp_path), **flags))
    assert not any("rows:" in note or "missing" in note for note in found.points.notes)
    assert found.answer.fit.theta["alpha"] == pytest.approx(0.1, rel=0.05)


def test_very_many_rows_are_compared_by_some_of_them(tmp_path):
    C = 10 ** np.random.default_rng(0).uniform(11, 15, 4000)
    recipe = np.where(np.arange(4000) % 2, "old", "new")
    table = pd.DataFrame({"C": C, "loss": 30 * (C * np.where(recipe == "new", 2.0, 1.0)) ** -0.08})
    table.assign(recipe=recipe).to_parquet(tmp_path / "many.parquet")
    request = Request(str(tmp_path / "many.parquet"), str(tmp_path), draws=100, rows=60)
    found = compare.run(request, compare.Asked(by="recipe"))
    (held,) = found.comparisons
    assert (held.first.runs, held.second.runs) == (60, 60)
    assert [held.first.name, held.second.name] == ["new", "old"]
    assert held.savings[0].value == pytest.approx(0.5, rel=1e-3)
    assert any("60 of them are fitted" in note for note in found.notes)
