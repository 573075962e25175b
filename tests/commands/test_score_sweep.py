"""Scores of our own sweeps: a metric goes to the detector by its name, and `report` shows what it says."""

import json
import shutil

import numpy as np
import pytest

from scalectl.commands import measured
from scalectl.core.errors import UsageError
from scalectl.core.rows import Row
from scalectl.store.evaluations import JudgedOn, take_name, write_evaluation
from scalectl.store.layout import open_store
from scalectl.store.points import metrics_listed
from scalectl.store.sweeps import load_sweep

SWEEP = """\
name = "sums"
question = "From which width on are one-digit sums right?"

[model]
family = "decoder"
d_model = { grid = [4, 8, 12, 16, 24] }
n_layer = 1
n_head = { rule = "d_model / 4" }

[data]
source = "arithmetic"
operation = "add"
digits = 1

[train]
steps = 10
batch_tokens = { rule = "16 * context" }
lr = 0.01
seed = { grid = [0, 1] }

[eval]
every = 2
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scalectl):
    folder = tmp_path_factory.mktemp("sums")
    (folder / "sums.toml").write_text(SWEEP)
    scalectl("sweep", "sums.toml", cwd=folder)
    return folder


def test_a_score_goes_to_the_detector_by_its_name(trained, scalectl):
    held = json.loads(scalectl("fit", "sums", "--metric", "exact_match", "--json", cwd=trained).stdout)
    (task,) = held["tasks"]
    assert held["schema"] == "scalectl/threshold@1"
    assert held["convention"] == "non_embedding"
    assert task["task"] == "exact_match"
    assert task["floor_from"] == "chance"
    assert [place["seeds"] for place in task["places"]] == [2] * 5
    assert all(place["items"] > 2 for place in task["places"])
    law = scalectl("fit", "sums", "--bootstrap", "0", cwd=trained)
    assert "L = A/N^α" in law.stdout  # the loss stays with the laws


def test_along_its_steps_a_run_is_a_curve_and_sizes_are_families(trained, scalectl):
    done = scalectl("fit", "sums", "--metric", "exact_match", "--axis", "step", "--json", cwd=trained)
    held = json.loads(done.stdout)
    assert len(held["tasks"]) == 5
    assert all(task["family"].startswith("N = ") for task in held["tasks"])
    assert [place["at"] for place in held["tasks"][0]["places"]] == [2, 4, 6, 8, 10]
    screen = scalectl("fit", "sums", "--metric", "exact_match", "--axis", "step", cwd=trained).stdout
    assert screen.count("family  ") == 1  # one table, a line for each size


def test_along_its_steps_a_score_has_the_floor_and_the_twin_that_flags_name(trained, scalectl):
    flags = ("--metric", "exact_match", "--axis", "step", "--kind", "score", "--json")
    held = json.loads(scalectl("fit", "sums", *flags, "--chance", "0.3", "--items", "items", cwd=trained).stdout)
    assert [task["floor"] for task in held["tasks"]] == pytest.approx([0.3] * 5)
    assert {task["floor_from"] for task in held["tasks"]} == {"chance"}
    said = scalectl("fit", "sums", *flags, "--twin", "nowhere", cwd=trained, code=2).stderr
    assert '--twin "nowhere" is no column' in said


def test_sizes_are_not_pooled_along_the_tokens_nor_lengths_along_the_sizes(trained, scalectl):
    done = scalectl("fit", "sums", "--metric", "exact_match", "--axis", "D", cwd=trained, code=2)
    assert "N varies at one D among these runs" in done.stderr
    measured.refuse_pooling("N", np.array([8.0, 8.0, 16.0]), np.array([100.0, 101.0, 400.0]), None)  # whole steps
    with pytest.raises(UsageError, match="D varies at one N"):
        measured.refuse_pooling("N", np.array([8.0, 8.0, 16.0]), np.array([100.0, 200.0, 400.0]), None)
    sizes, budgets = np.array([8.0, 16.0, 16.0]), np.array([1e9, 1e9, 2e9])
    measured.refuse_pooling("N", sizes, None, budgets)
    measured.refuse_pooling("C", np.array([8.0, 8.0, 16.0]), None, budgets)
    with pytest.raises(UsageError, match="N varies at one C among these runs"):
        measured.refuse_pooling("C", sizes, None, budgets)


def test_the_report_has_the_scores_too(trained, scalectl):
    held = json.loads(scalectl("report", "sums", "--json", cwd=trained).stdout)
    assert held["thresholds"]["tasks"][0]["task"] == "exact_match"
    screen = scalectl("report", "sums", cwd=trained).stdout
    assert "1 curve, " in screen
    assert "exact_match  " in screen


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--metric", "exact_mach", "--kind", "score"], "did you mean held-out/exact_match?"),
        (["--metric", "exact_match", "--map", "N=x"], "--map names columns of a file"),
        (["--metric", "exact_match", "--items", "nowhere"], '--items "nowhere" is no column'),
        (["--metric", "exact_match", "--kind", "scores"], "use law or score"),
    ],
)
def test_what_a_sweep_does_not_have_is_said(trained, scalectl, flags, said):
    done = scalectl("fit", "sums", *flags, cwd=trained, code=None)
    assert done.returncode in (2, 3)
    assert said in " ".join(done.stderr.split())


def test_metrics_that_many_splits_have_are_listed_once():
    def listed(*splits):
        names = [f"{split}/{metric}" for split in ("held-out", *splits) for metric in ("exact_match", "loss")]
        return metrics_listed([*names, "held-out/loss_se"])

    own = "there are held-out/exact_match, held-out/loss, held-out/loss_se; exact_match, loss of "
    assert listed("prose", "verse") == f"{own}prose and verse"
    assert listed("i", "j", "k") == f"{own}i, j and k"
    assert listed(*(f"s{i}" for i in range(8))) == f"{own}8 splits, s0 the first"


def test_a_table_of_the_sweep_gives_the_same(trained, scalectl):
    scalectl("export", "sums", "-o", "sums.csv", cwd=trained)
    flags = ("--map", "N=N_non_embedding", "--map", "S=held-out/exact_match", "--items", "held-out/items", "--json")
    more = ("--chance", "held-out/chance", "--kind", "score")
    mine = json.loads(scalectl("fit", "sums", "--metric", "exact_match", "--json", cwd=trained).stdout)["tasks"][0]
    theirs = json.loads(scalectl("fit", "sums.csv", *flags, *more, cwd=trained).stdout)["tasks"][0]
    assert theirs["places"] == mine["places"]
    assert (theirs["label"], theirs["floor"]) == (mine["label"], mine["floor"])


def test_what_runs_were_judged_on_afterwards_is_no_further_task(trained, scalectl, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    store = open_store(folder / "results")
    on = JudgedOn("arithmetic", "0123", 400)
    take_name(store, "more", on)
    for run_id in load_sweep(store, "sums").current:
        rows = [Row(run_id, 10, 100, 1e9, split, "exact_match", 0.5, 0.1) for split in ("more", "more-subtask01")]
        write_evaluation(store, "more", run_id, on, rows, {})

    def tasks(metric, *more):
        held = json.loads(scalectl("fit", "sums", "--metric", metric, *more, "--json", cwd=folder, code=None).stdout)
        return [task["task"] for task in held["tasks"]]

    assert tasks("exact_match") == ["exact_match"]
    assert len(tasks("exact_match", "--axis", "step")) == 5
    assert tasks("more/exact_match") == ["exact_match"]
