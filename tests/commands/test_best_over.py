"""`--best-over`: a trained grid of rates, from the refusal to the prediction."""

import json

import numpy as np
import pytest
from support import SWEEP

from scalectl.commands.fit import choose_best
from scalectl.core.errors import UsageError
from scalectl.core.rows import Points

RATES = [0.002, 0.005, 0.0125, 0.03125]
POWER = ("--law", "power", "--bootstrap", 100)


@pytest.fixture(scope="module")
def rates(tmp_path_factory, scalectl):
    """Three widths x four rates x two seeds, trained for thirty steps."""
    folder = tmp_path_factory.mktemp("rates")
    (folder / "tiny.toml").write_text(SWEEP.replace("lr = 0.01", f"lr = {{ grid = {RATES} }}"))
    scalectl("sweep", "tiny.toml", cwd=folder)
    return folder


def test_pooling_is_refused_and_the_way_out_is_named(rates, scalectl):
    refused = scalectl("fit", "tiny", cwd=rates, code=2)
    assert "train.lr varies among these runs at equal N and D" in refused.stderr
    assert "--best-over train.lr" in refused.stderr


def test_the_best_of_each_size_is_fitted_and_json_says_what_was_chosen(rates, scalectl):
    found = json.loads(scalectl("fit", "tiny", "--best-over", "lr", *POWER, "--json", cwd=rates).stdout)
    chosen = found["best_over"]
    assert (chosen["column"], chosen["runs"], len(chosen["cells"])) == ("train.lr", 24, 3)
    assert [cell["cell"]["model.d_model"] for cell in chosen["cells"]] == [8, 16, 32]
    index = json.loads(scalectl("report", "tiny", "--json", "--bootstrap", "0", cwd=rates).stdout)["runs"]
    for cell in chosen["cells"]:
        assert cell["values"] == RATES
        lowest = min(cell["losses"])
        at = RATES.index(cell["value"]) if cell["method"] == "minimum" else None
        assert cell["loss"] == pytest.approx(lowest) if at is not None else lowest * 0.99 < cell["loss"] <= lowest
        assert cell["edge"] == {0: "lowest", 3: "highest"}.get(cell["losses"].index(lowest), "")
        width = cell["cell"]["model.d_model"]
        own = [run["loss"] for run in index if run["cell"]["model.d_model"] == width]
        assert len(own) == cell["runs"] == 8
        assert min(own) <= lowest <= max(own)
    law = found["fits"][0]
    assert (law["n"], law["sizes"], law["draws"]) == (6, 3, 100)


def test_edges_are_flagged_by_name_on_the_screen(rates, scalectl):
    asked = ("fit", "tiny", *POWER, "--best-over")
    cells = json.loads(scalectl(*asked, "lr", "--json", cwd=rates).stdout)["best_over"]["cells"]
    text = " ".join(scalectl(*asked, "train.lr", cwd=rates).stdout.split())
    assert "24 runs: 3 sizes × 2 seeds, each at its best lr" in text
    for cell in cells:
        assert (f"d_model={cell['cell']['model.d_model']}" in text) == bool(cell["edge"])


def test_a_prediction_rests_on_the_same_choice(rates, scalectl):
    refused = scalectl("predict", "tiny", "--n", "1M", cwd=rates, code=2)
    assert "--best-over train.lr" in refused.stderr
    asked = ("--best-over", "lr", *POWER, "--json")
    found = json.loads(scalectl("predict", "tiny", "--n", "1M", *asked, cwd=rates).stdout)
    law = json.loads(scalectl("fit", "tiny", *asked, cwd=rates).stdout)["fits"][0]["params"]
    assert found["answers"][0]["value"] == pytest.approx(law["A"] * 1e6 ** -law["alpha"])
    assert found["best_over"]["runs"] == 24
    assert found["answers"][0]["extrapolation"]["N"] > 1


def test_a_report_takes_the_best_rate_unasked_and_says_so(rates, scalectl):
    said = scalectl("report", "tiny", "--bootstrap", "100", cwd=rates).stdout
    assert "best lr of 4 (0.002 … 0.03125)" in said
    assert "No law yet" not in said
    found = json.loads(scalectl("report", "stdlib-rates", "--bootstrap", "100", "--json", cwd=rates).stdout)
    assert [cell["edge"] for cell in found["best_over"]["cells"]] == ["highest", "", "", "", ""]
    assert {law["law"] for law in found["fits"]} == {"power", "power+constant"}


def test_a_second_axis_is_refused_and_a_split_goes_with_a_choice(rates, scalectl):
    refused = scalectl("fit", "mup-rates", "--best-over", "lr", cwd=rates, code=2)
    assert "model.mup_base_width varies" in refused.stderr
    asked = ("--best-over", "lr", "--by", "mup_base_width", *POWER, "--json")
    split = json.loads(scalectl("fit", "mup-rates", *asked, cwd=rates).stdout)
    assert [len(group["best_over"]["cells"]) for group in split["groups"]] == [5, 5]


def test_a_column_that_is_not_there_or_sets_the_size_is_refused(rates, scalectl):
    assert "train.lr" in scalectl("fit", "tiny", "--best-over", "train.lrr", cwd=rates, code=2).stderr
    width = scalectl("fit", "stdlib-ladder", "--best-over", "d_model", cwd=rates, code=2).stderr
    assert "nothing to choose: model.d_model takes one value at each N and D" in width
    refused = scalectl("fit", "tiny", "--best-over", "lr", "--unit", "residual", cwd=rates, code=2).stderr
    assert "use --unit size or --unit run" in refused


def test_a_table_of_runs_has_a_best_as_well(rates, scalectl):
    rows = [
        (n, lr, seed, 4.5 * n**-0.08 * (1 + 0.01 * (k - 1) ** 2 + 0.001 * seed))
        for n in (1e6, 3e6, 1e7, 3e7)
        for k, lr in enumerate((0.001, 0.002, 0.004))
        for seed in (0, 1)
    ]
    text = "N,lr,seed,loss\n" + "".join(f"{n},{lr},{seed},{loss}\n" for n, lr, seed, loss in rows)
    (rates / "runs.csv").write_text(text)
    found = json.loads(scalectl("fit", "runs.csv", "--best-over", "lr", *POWER, "--json", cwd=rates).stdout)
    assert {cell["value"] for cell in found["best_over"]["cells"]} == {0.002}
    assert found["fits"][0]["params"]["alpha"] == pytest.approx(0.08, abs=1e-4)


def test_amounts_of_distinct_data_are_not_pooled_and_no_best_is_offered():
    N, amount = np.repeat([1e4, 1e5, 1e6], 2), np.tile([320.0, 2e5], 3)
    points = Points(L=5 * N**-0.1, N=N, D=np.full(6, 1e6), columns={"data.unique_tokens": amount})
    with pytest.raises(UsageError, match=r"data\.unique_tokens varies among these runs") as refused:
        choose_best(points, None)
    assert "--where 'data.unique_tokens == ...'" in refused.value.remedy
    assert "--best-over" not in refused.value.remedy


@pytest.mark.slow
def test_runs_with_different_amounts_of_distinct_data_are_not_pooled(scalectl, tmp_path):
    grid = "unique_tokens = { grid = [320, 200000] }"
    text = SWEEP.replace("length = 200000", f"length = 200000\n{grid}").replace("{ grid = [0, 1] }", "0")
    (tmp_path / "tiny.toml").write_text(text)
    scalectl("sweep", "tiny.toml", cwd=tmp_path)
    refused = scalectl("fit", "tiny", cwd=tmp_path, code=2)
    assert "data.unique_tokens varies among these runs" in refused.stderr
    assert "--best-over" not in refused.stderr
    asked = ("--where", "data.unique_tokens == 320", *POWER, "--json")
    one = json.loads(scalectl("fit", "tiny", *asked, cwd=tmp_path).stdout)
    assert one["fits"][0]["n"] == 3
