"""Laws by their names on the command line, on tables whose truth is known."""

import json

import numpy as np
import pandas as pd
import pytest

from scalectl.laws import LAWS, where


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
    assert "= α" in scalectl("fit", "runs.csv", *flags[:-1], 0, cwd=surface).stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tie", "alpha"], "is not NAME=OTHER"),
        (["--tie", "alpha=alpha"], "is not NAME=OTHER"),
        (["--tie", "alpha=zeta"], 'chinchilla has no parameter "zeta"'),
        (["--tie", "A=B"], "not of one kind"),
        (["--fix", "zeta=1"], '--fix: chinchilla has no parameter "zeta"'),
        (["--fix", "alpha=0.3", "--fix", "zeta=1"], 'no parameter "zeta"'),
        (["--law", "kaplan", "--fix", "G=1"], '--fix: chinchilla and kaplan have no parameter "G"'),
    ],
)
def test_a_tie_or_a_pin_that_means_nothing_is_said(scalectl, surface, flags, said):
    assert said in scalectl("fit", "runs.csv", "--law", "chinchilla", *flags, cwd=surface, code=2).stderr


def test_the_third_approach_reads_tied_exponents(scalectl, surface):
    flags = ["--law", "chinchilla", "--approach", 3, "--tie", "alpha=beta", "--bootstrap", 100]
    held = json.loads(scalectl("fit", "runs.csv", *flags, "--json", cwd=surface).stdout)["approaches"][0]
    assert (held["a"], held["b"], held["a_interval"]) == (0.5, 0.5, [0.5, 0.5])


def facts(scalectl, folder, *flags, draws=0):
    return json.loads(scalectl("fit", "runs.csv", *flags, "--bootstrap", draws, "--json", cwd=folder).stdout)


def law_table(folder, law, noise, **others):
    """What a law says at 6 sizes by 6 budgets, as runs.csv."""
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    there = where(N=N, D=D, **{name: values(N, D) for name, values in others.items()})
    exact = law.predict(law.example, there) * np.exp(noise * np.random.default_rng(0).standard_normal(36))
    pd.DataFrame({"N": N, "D": D, **there.others, "L": exact}).to_csv(folder / "runs.csv")


def test_repeated_data_are_fitted_with_the_tokens_that_there_are(scalectl, tmp_path):
    epochs = np.tile([1.0, 4.0, 16.0, 60.0], 9)
    law_table(tmp_path, LAWS["repetition"], 0.001, U=lambda N, D: D / epochs)
    held = facts(scalectl, tmp_path, "--law", "repetition", "--map", "U=U")["fits"][0]
    assert held["params"]["R_D"] == pytest.approx(15.4, rel=0.2)
    refused = scalectl("fit", "runs.csv", "--law", "repetition", cwd=tmp_path, code=None)
    assert refused.returncode == 1
    assert "the law needs N and D and U" in refused.stderr
    told = scalectl("predict", "runs.csv", "--law", "repetition", "--map", "U=U", "--n", "1e9", "--d", "1e11",
                    "--with", "U=1e10", "--bootstrap", 100, "--json", cwd=tmp_path)  # fmt: skip
    answer = json.loads(told.stdout)["answers"][0]
    assert answer["what"] == "L"
    assert answer["interval"][0] < answer["value"] < answer["interval"][1]


def test_width_and_depth_stand_for_n(scalectl, tmp_path):
    depth = np.tile([4.0, 12.0, 32.0], 12)
    law_table(tmp_path, LAWS["width-depth"], 0.001, width=lambda N, D: 128 * (N / 1e6) ** 0.5, depth=lambda N, D: depth)
    flags = ["--law", "width-depth", "--map", "width=width", "--map", "depth=depth"]
    held = facts(scalectl, tmp_path, *flags)["fits"][0]
    assert held["params"]["beta"] == pytest.approx(0.7, rel=0.2)
    assert held["holdout"][0]["where"] == "largest N D"


def test_a_score_is_fitted_against_its_loss(scalectl, tmp_path):
    loss = np.linspace(1.8, 3.4, 30)
    score = 0.25 + 0.6 / (1 + np.exp(4.0 * (loss - 2.4))) + 0.003 * np.random.default_rng(0).standard_normal(30)
    pd.DataFrame({"loss": loss, "accuracy": score}).to_csv(tmp_path / "runs.csv")
    found = facts(scalectl, tmp_path, "--map", "S=accuracy", draws=100)
    assert [held["law"] for held in found["fits"]] == ["score-sigmoid", "score-exponential"]
    assert found["chosen"] == "score-sigmoid"
    assert found["fits"][0]["params"]["L0"] == pytest.approx(2.4, abs=0.03)
    assert found["fits"][0]["holdout"][0]["where"] == "lowest loss"
    told = scalectl("predict", "runs.csv", "--map", "S=accuracy", "--loss", 2.4, "--bootstrap", 100, "--json",
                    cwd=tmp_path)  # fmt: skip
    answer = json.loads(told.stdout)["answers"][0]
    assert answer["what"] == "S"
    assert answer["value"] == pytest.approx(0.55, abs=0.02)
    asked = ("--law", "score-sigmoid", "--map", "S=accuracy", "--bootstrap", 0)
    assert "S = b + a/(1 + exp(k (L - L0)))" in scalectl("fit", "runs.csv", *asked, cwd=tmp_path).stdout


@pytest.mark.parametrize("name", ["broken", "saturating"])
def test_curves_with_bends_are_laws_of_one_axis(scalectl, tmp_path, name):
    law = LAWS[name]
    N = np.geomspace(1e5, 1e9, 24)
    pd.DataFrame({"N": N, "loss": law.predict(law.example, where(N=N))}).to_csv(tmp_path / "runs.csv")
    held = facts(scalectl, tmp_path, "--law", name)["fits"][0]
    assert held["params"] == pytest.approx(law.example, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["broken", "broken:2", "saturating"])
def test_bends_that_the_points_do_not_show_are_not_identified(scalectl, tmp_path, name):
    N = np.geomspace(1e5, 1e9, 24)
    pd.DataFrame({"N": N, "loss": 2 + 8 / N**0.2}).to_csv(tmp_path / "runs.csv")
    done = scalectl("fit", "runs.csv", "--law", name, "--bootstrap", 100, cwd=tmp_path, code=None)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    assert "not identified" in done.stdout


def test_rows_count_by_a_column_and_are_resampled_by_another(scalectl, surface):
    table = pd.read_csv(surface / "runs.csv")
    table["times"], table["batch"] = np.where(table.index < 6, 0.0, 2.0), table.index // 4
    table.loc[:5, "L"] *= 3  # wrong rows, which count for nothing
    table.to_csv(surface / "runs.csv", index=False)
    found = facts(scalectl, surface, "--law", "chinchilla", "--weight", "times", "--group", "batch")
    assert found["fits"][0]["params"]["E"] == pytest.approx(1.7, abs=0.05)
    assert found["fits"][0]["sizes"] == 8
    assert any("times" in note for note in found["notes"])
    assert any("batch" in note for note in found["notes"])
    table["times"] = "often"
    table.to_csv(surface / "runs.csv", index=False)
    assert "no number" in scalectl("fit", "runs.csv", "--weight", "times", cwd=surface, code=2).stderr


def test_over_estimates_may_count_more(scalectl, surface):
    held = facts(scalectl, surface, "--law", "chinchilla", "--objective", "asym:9")["fits"][0]
    assert held["objective"]["name"] == "asym:9"
    flags = ["--law", "chinchilla", "--objective", "asym:9", "--bootstrap", 0]
    assert "over-estimates × 9, Huber 1e-3" in scalectl("fit", "runs.csv", *flags, cwd=surface).stdout


def cells_of_three(folder, **columns):
    """runs.csv: five sizes by four budgets with three rows each."""
    N, D = (np.repeat(x.ravel(), 3) for x in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 4)))
    L = (1.7 + 400 / N**0.34 + 410 / D**0.28) * np.exp(0.003 * np.random.default_rng(0).standard_normal(60))
    table = pd.DataFrame({"N": N, "D": D, "loss": L, **{name: np.resize(held, 60) for name, held in columns.items()}})
    table.to_csv(folder / "runs.csv", index=False)
    return table


def test_a_grid_column_of_a_table_is_refused_with_what_may_be_done_and_each_of_it_works(scalectl, tmp_path):
    cells_of_three(tmp_path, **{"my lr": [1e-4, 3e-4, 1e-3]})
    said = " ".join(scalectl("fit", "runs.csv", cwd=tmp_path, code=2).stderr.split())
    assert "my lr varies among these rows at equal N and D" in said
    for way in ("--best-over 'my lr'", "--by 'my lr'", "--where '`my lr` == ...'", "--map seed='my lr'"):
        assert way in said
    fast = ["--bootstrap", 0, "--law", "chinchilla"]
    assert "each at its best my lr" in scalectl("fit", "runs.csv", "--best-over", "my lr", *fast, cwd=tmp_path).stdout
    assert "my lr=0.0001" in scalectl("fit", "runs.csv", "--by", "my lr", *fast, cwd=tmp_path).stdout
    scalectl("fit", "runs.csv", "--where", "`my lr` == 3e-4", *fast, cwd=tmp_path)
    seeded = scalectl("fit", "runs.csv", "--map", "seed=my lr", *fast, cwd=tmp_path).stdout
    assert seeded.startswith("60 runs: 5 sizes × 4 budgets × 3 seeds")
    scalectl("predict", "runs.csv", "--n", "1e9", "--d", "1e9", cwd=tmp_path, code=2)


def test_rows_that_no_seed_tells_apart_are_not_called_seeds(scalectl, tmp_path):
    cells_of_three(tmp_path)
    shown = scalectl("fit", "runs.csv", "--law", "chinchilla", "--bootstrap", 0, cwd=tmp_path).stdout
    assert shown.startswith("60 runs: 5 sizes × 4 budgets × 3 runs")
    assert "between repeats" in shown
    assert "seed" not in shown


def test_sizes_with_different_budgets_are_counted_by_cells(scalectl, tmp_path):
    table = cells_of_three(tmp_path, seed=[0, 1, 2])
    table[3:].to_csv(tmp_path / "runs.csv", index=False)
    shown = scalectl("fit", "runs.csv", "--law", "chinchilla", "--bootstrap", 0, cwd=tmp_path).stdout
    assert shown.startswith("57 runs: 5 sizes in 19 cells of N and D × 3 seeds")


def test_a_group_that_cannot_be_fitted_does_not_keep_the_others_back(scalectl, surface):
    table = pd.read_csv(surface / "runs.csv")
    parts = [table.assign(lab="a"), table[:2].assign(lab="b"), table.assign(lab="c")]
    pd.concat(parts).to_csv(surface / "runs.csv", index=False)
    flags = ["--by", "lab", "--law", "chinchilla", "--bootstrap", 0]
    done = scalectl("fit", "runs.csv", *flags, cwd=surface, code=1)
    assert done.stderr.startswith("error: lab=b: no law could be fitted to 2 points")
    assert [line for line in done.stdout.splitlines() if line.startswith("lab=")] == ["lab=a", "lab=c"]
    found = json.loads(scalectl("fit", "runs.csv", *flags, "--json", cwd=surface, code=1).stdout)
    assert [held["group"] for held in found["groups"]] == ["lab=a", "lab=c"]
    assert set(found["refused"]) == {"lab=b"}
    table[:2].assign(lab="b").to_csv(surface / "runs.csv", index=False)
    assert "lab" not in scalectl("fit", "runs.csv", *flags, cwd=surface, code=1).stdout


def test_a_holdout_of_everything_or_nothing_is_said(scalectl, surface):
    flags = ["--law", "chinchilla", "--bootstrap", 0]
    assert (
        "holds out every point" in scalectl("fit", "runs.csv", "--holdout", "N > 0", *flags, cwd=surface, code=2).stderr
    )
    none = scalectl("fit", "runs.csv", "--holdout", "N > 1e12", *flags, cwd=surface, code=3)
    assert 'no row answers to --holdout "N > 1e12"' in none.stderr
    most = scalectl("fit", "runs.csv", "--holdout", "N > 2e6", *flags, cwd=surface)
    assert "nothing is held out: without N > 2e6 the other points do not determine" in " ".join(most.stdout.split())


def test_a_loss_below_the_floor_is_never_reached(scalectl, surface):
    flags = ["--law", "chinchilla", "--bootstrap", 100]
    assert "never reached" in scalectl("predict", "runs.csv", "--loss", "1.2", *flags, cwd=surface).stdout
    near = scalectl("predict", "runs.csv", "--loss", "1.7", *flags, "--json", cwd=surface).stdout
    answer = json.loads(near)["answers"][0]
    assert 0 < answer["impossible"] < 1
    assert answer["interval"][0] > 1e20  # FLOP; a draw that gets there does so far beyond the points
