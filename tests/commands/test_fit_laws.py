"""Laws by their names on the command line, on tables whose truth is known."""

import json

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def surface(tmp_path):
    """A table of 6 sizes by 6 budgets from a sum of two powers with equal exponents."""
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(36))
    pd.DataFrame({"N": N, "D": D, "L": (1.7 + 400 / N**0.3 + 900 / D**0.3) * noise}).to_csv(tmp_path / "runs.csv")
    return tmp_path


def test_n_and_d_get_both_joint_laws_and_the_truth_is_chosen(scalectl, surface):
    found = json.loads(scalectl("fit", "runs.csv", "--bootstrap", 100, "--json", cwd=surface).stdout)
    assert [held["law"] for held in found["fits"]] == ["chinchilla", "kaplan"]
    assert found["chosen"] == "chinchilla"


def test_tied_exponents_are_one_parameter_with_two_names(scalectl, surface):
    flags = ["--law", "chinchilla", "--tie", "alpha=beta", "--bootstrap", 100]
    held = json.loads(scalectl("fit", "runs.csv", *flags, "--json", cwd=surface).stdout)["fits"][0]
    assert held["tied"] == {"beta": "alpha"}
    assert held["params"]["beta"] == held["params"]["alpha"]
    assert held["intervals"]["beta"] == held["intervals"]["alpha"]
    assert held["params"]["alpha"] == pytest.approx(0.3, abs=0.01)
    assert held["optimal"]["a"] == 0.5
    assert "= α" in scalectl("fit", "runs.csv", *flags, cwd=surface).stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tie", "alpha"], "is not NAME=OTHER"),
        (["--tie", "alpha=alpha"], "is not NAME=OTHER"),
        (["--tie", "alpha=zeta"], "it has no parameter zeta"),
        (["--tie", "A=B"], "not of one kind"),
    ],
)
def test_a_tie_that_means_nothing_is_said(scalectl, surface, flags, said):
    done = scalectl("fit", "runs.csv", "--law", "chinchilla", *flags, cwd=surface, code=None)
    assert done.returncode in (1, 2)
    assert said in done.stderr
