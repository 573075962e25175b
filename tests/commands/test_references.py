"""`ref:NAME`: what it fits, what it says of the table, and what it refuses."""

import subprocess
import sys

import pytest
from support import PUBLISHED, environment

from scalectl.commands import fit as command
from scalectl.commands.fit import Request
from scalectl.core.errors import DataError, UsageError

there = pytest.mark.skipif(
    not (PUBLISHED / "epoch_chinchilla").exists(), reason=f"the published tables are not at {PUBLISHED}"
)
WITHOUT_FIVE = "L < 3.446"


@pytest.fixture(autouse=True)
def published(monkeypatch):
    monkeypatch.setenv("SCALECTL_REFERENCES", str(PUBLISHED))


def asked(target, **more):
    return Request(target=target, draws=0, **more)


@pytest.mark.parametrize(
    ("name", "where", "remedy"),
    [
        ("ref:epoch-chinchila", "gemstones (/hot, /cool_begin", "did you mean ref:epoch-chinchilla?"),
        ("ref:gemstones/coolend", "it has hot, cool_begin", "did you mean ref:gemstones/cool_end?"),
        ("ref:", "there are epoch-chinchilla, ", "scalectl fit FILE"),
    ],
)
def test_an_unknown_table_is_answered_with_what_there_is(name, where, remedy):
    with pytest.raises(UsageError) as raised:
        command.run(asked(name))
    assert where in raised.value.where
    assert remedy in raised.value.remedy


def test_a_table_that_cannot_be_fetched_says_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv("SCALECTL_REFERENCES", str(tmp_path))
    with pytest.raises(DataError, match="is not served as one file") as raised:
        command.run(asked("ref:gadre-overtraining"))
    assert "SCALECTL_REFERENCES to the folder with gadre_overtraining/models.csv" in raised.value.remedy


@there
def test_the_command_line_names_papers_licence_and_convention(scalectl, tmp_path):
    flags = ("--where", WITHOUT_FIVE, "--bootstrap", "0")
    done = scalectl("fit", "ref:epoch-chinchilla", *flags, cwd=tmp_path, SCALECTL_REFERENCES=str(PUBLISHED))
    said = " ".join(done.stdout.split())
    assert "Besiroglu et al. 2024, arXiv 2404.10102; licence MIT" in said
    assert "240 runs: 43 sizes" in said
    assert "N total, D from C = 6 N D" in said


@there
def test_a_published_table_is_fitted_without_importing_pandas(tmp_path):
    script = (
        "import sys\nfrom scalectl.commands.fit import Request, run\n"
        f"run(Request(target='ref:epoch-chinchilla', where='{WITHOUT_FIVE}', draws=0))\n"
        "print(sorted({'pandas', 'torch', 'scipy.stats', 'pooch'} & set(sys.modules)))"
    )
    known = environment(SCALECTL_REFERENCES=str(PUBLISHED))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=known, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


@there
def test_the_published_points_give_the_published_optimum():
    fit = command.run(asked("ref:epoch-chinchilla", where=WITHOUT_FIVE)).answer.summary
    assert (fit.n, fit.convention, fit.flops) == (240, "total", "6nd")
    assert fit.value <= 0.00101827402


@there
def test_n_is_counted_as_asked_where_the_table_can():
    found = {}
    for convention in ("total", "non_embedding"):
        found[convention] = command.run(asked("ref:gemstones", convention=convention)).answer.summary
    assert [fit.convention for fit in found.values()] == ["total", "non_embedding"]
    assert found["total"].value == pytest.approx(0.0019816, rel=1e-3)
    assert found["non_embedding"].value == pytest.approx(0.0017467, rel=1e-3)
    other = command.run(asked("ref:epoch-chinchilla", convention="matmul"))
    assert "N counts total parameters: the table has no matmul count" in other.points.notes


@there
def test_sweeps_of_one_table_are_never_pooled():
    with pytest.raises(UsageError, match="holds 15 data sets that are never pooled") as raised:
        command.run(asked("ref:porian-discrepancies"))
    assert "--by config_id" in raised.value.remedy
    where = "config_id == 'main_0' or config_id == 'main_1'"
    groups = command.run_by(asked("ref:porian-discrepancies", where=where), "config_id", command.view).views
    assert list(groups) == ["config_id=main_0", "config_id=main_1"]
    assert [found.fits[0].convention for found in groups.values()] == ["non_embedding", "matmul"]


@there
def test_a_prediction_from_a_published_table_says_whose_it_is():
    view = command.predict(Request(target="ref:epoch-chinchilla", where=WITHOUT_FIVE, draws=100), C=1e24)
    assert "Hoffmann et al. 2022" in view.opening
    assert view.convention == "total"
