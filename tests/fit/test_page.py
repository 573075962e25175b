"""The notebook's verbs give what the command line gives."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import scalectl as package
from scalectl import confint, fit, frame, load, predict
from scalectl.core.errors import UsageError


@pytest.fixture(scope="module")
def points():
    return load("stdlib-ladder")


def test_a_notebook_and_the_command_line_agree(points, scalectl, tmp_path):
    said = json.loads(scalectl("fit", "stdlib-ladder", "--law", "power", "--json", cwd=tmp_path).stdout)["fits"][0]
    fitted = fit(points, "power")
    assert fitted.theta == pytest.approx(said["params"], rel=1e-12)
    table = confint(fitted)
    assert list(table.index) == ["A", "alpha"]
    assert table.loc["alpha", "low"] < fitted.theta["alpha"] < table.loc["alpha", "high"]
    assert table["identified"].to_dict() == said["identified"]
    assert table.loc["alpha", ["profile_low", "profile_high"]].tolist() == pytest.approx(said["profile"]["alpha"])


def test_what_the_command_line_drew_is_drawn_with_the_same_seed(points):
    fitted = fit(points, "power")
    pd.testing.assert_frame_equal(confint(fitted, draws=200), confint(fitted, draws=200))
    assert not confint(fitted, draws=200).equals(confint(fitted, draws=200, seed=1))
    wide, narrow = confint(fitted, 0.99).loc["alpha"], confint(fitted, 0.5).loc["alpha"]
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_a_frame_is_as_good_as_a_sweep(points):
    assert fit(frame(points), "power").theta == pytest.approx(fit(points, "power").theta, rel=1e-12)
    assert frame(points)["train.lr"].notna().all()


def test_predictions_have_a_row_for_each_place(points):
    fitted = fit(points, "power")
    rows = predict(fitted, N=[1e5, 1e6], draws=200)
    assert rows["value"].tolist() == pytest.approx(fitted.predict(N=np.array([1e5, 1e6])).tolist())
    assert (rows["low"] < rows["value"]).all()
    assert (rows["value"] < rows["high"]).all()
    assert rows["beyond"].tolist() == pytest.approx([1.0, 1e6 / points.N.max()])
    cost = predict(fitted, loss=float(rows["value"][1]), draws=200)
    assert cost["what"].tolist() == ["N"]
    assert cost["value"].tolist() == pytest.approx([1e6])


def test_a_budget_has_its_best_split():
    N, D = (values.ravel() for values in np.meshgrid(np.geomspace(1e5, 1e8, 6), np.geomspace(1e7, 1e10, 6)))
    table = pd.DataFrame({"N": N, "D": D, "L": 1.7 + 400 / N**0.35 + 410 / D**0.35})
    fitted = fit(table, "chinchilla")
    assert fitted.theta["alpha"] == pytest.approx(0.35, rel=1e-9)
    best = predict(fitted, C=6e17, draws=100).set_index("what")["value"]
    assert best["N"] * best["D"] == pytest.approx(1e17)
    assert predict(fitted, N=best["N"], D=best["D"], draws=100)["value"][0] == pytest.approx(best["L"])


def test_what_cannot_be_answered_says_what_can(points):
    with pytest.raises(UsageError, match="did you mean power"):
        fit(points, "pwer")
    with pytest.raises(UsageError, match=r"train\.lr vary among these points"):
        fit(load("mup-rates"))
    with pytest.raises(UsageError, match="nothing to predict"):
        predict(fit(points, "power"))
    with pytest.raises(UsageError, match="draws 0"):
        confint(fit(points, "power"), draws=0)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = package.fitt


def test_the_package_itself_imports_none_of_it():
    code = "import scalectl, sys; print([name for name in ('numpy', 'pandas', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
