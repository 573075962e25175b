"""`scalectl backtest` on the shipped results and on tables."""

import json

import numpy as np
import pandas as pd
import pytest


def test_every_size_is_a_curve_along_tokens(scalectl, tmp_path):
    said = json.loads(scalectl("backtest", "cpu-ladder", "--axis", "D", "--json", cwd=tmp_path).stdout)
    assert said["schema"] == "scalectl/backtest@1"
    assert said["curves"] == 8  # the smallest and the largest width have one budget each
    assert "2 curves with one place only left out" in said["notes"]
    assert {score["law"] for score in said["scores"]} >= {"power", "power+constant"}
    assert len({trial["curve"] for trial in said["trials"]}) == 8
    fitted = [trial for trial in said["trials"] if trial["error"] is not None]
    assert all(trial["early"] and trial["late"] and trial["beyond"] > 1 for trial in fitted)


def test_every_run_is_a_curve_of_its_evaluations(scalectl, tmp_path):
    said = json.loads(scalectl("backtest", "cpu-ladder", "--each-run", "--law", "power", "--json", cwd=tmp_path).stdout)
    assert said["axis"] == "D"
    assert all(len(trial["curve"]) == 6 for trial in said["trials"])
    assert any("learning rate is not decayed" in note for note in said["notes"])


def test_whatever_varies_besides_makes_curves(scalectl, tmp_path):
    asked = ("backtest", "stdlib-rates", "--law", "power")
    said = json.loads(scalectl(*asked, "--json", cwd=tmp_path).stdout)
    assert said["curves"] == 6
    assert {trial["curve"].partition("=")[0] for trial in said["trials"]} == {"lr"}
    shown = scalectl(*asked, cwd=tmp_path).stdout
    assert "6 curves along N" in shown
    assert "is furthest off on lr=" in shown


def test_a_table_with_a_column_of_curves(scalectl, tmp_path):
    tokens = np.tile(np.geomspace(1e6, 1e9, 8), 3)
    name = np.repeat(["a", "b", "c"], 8)
    pd.DataFrame({"tokens": tokens, "loss": 1 + 30 * tokens**-0.2, "name": name}).to_csv(tmp_path / "t.csv")
    said = json.loads(scalectl("backtest", "t.csv", "--by", "name", "--json", cwd=tmp_path).stdout)
    assert said["curves"] == 3
    first = said["scores"][0]
    assert first["law"] == "power+constant"
    assert first["worst"] < 1e-6


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["cpu-ladder", "--axis", "N"], "no curve has two places along N"),
        (["cpu-ladder", "--axis", "X"], '--axis "X" is not known'),
        (["cpu-ladder", "--early", "1.5"], "--early 1.5 is not a share"),
        (["cpu-ladder", "--each-run", "--axis", "N"], "--each-run takes the evaluations"),
        (["cpu-ladder", "--axis", "D", "--law", "chinchilla"], "chinchilla reads N and D"),
        (["cpu-ladder", "--law", "pover"], "did you mean power?"),
        (["mup-rates", "--by", "train.lr"], "varies within the curve lr="),
    ],
)
def test_what_makes_no_curves_is_refused_with_a_way_out(scalectl, tmp_path, flags, said):
    done = scalectl("backtest", *flags, cwd=tmp_path, code=None)
    assert done.returncode in (1, 2)
    assert said in done.stderr
