"""`scalectl compare`: two architectures on the same batches, two tables, and what cannot be compared."""

import json
import math

import pytest


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Runs of two recipes, one 1.3 times as good, and of one whose losses lie elsewhere."""
    folder = tmp_path_factory.mktemp("tables")
    for name, gain, offset in (("plain", 1.0, 0), ("better", 1.3, 0), ("distant", 1.0, 9)):
        rows = [
            (1e6 * 4**k, 1e9, seed, 20 * (gain * 6e15 * 4 ** (k + offset)) ** -0.08 * (1 + 0.002 * (seed - 0.5)))
            for k in range(5)
            for seed in (0, 1)
        ]
        scaled = [(n * 4**offset, d, seed, loss) for n, d, seed, loss in rows]
        lines = "".join(f"{n:g},{d:g},{seed},{loss:.12g}\n" for n, d, seed, loss in scaled)
        (folder / f"{name}.csv").write_text("N,D,seed,loss\n" + lines)
    return folder


def compared(scalectl, folder, *arguments):
    return json.loads(scalectl("compare", *arguments, "--bootstrap", "200", "--json", cwd=folder).stdout)


def test_two_architectures_on_shared_batches_are_paired_by_width_and_seed(tables, scalectl):
    asked = ("compare", "positions", "--by", "position", "--bootstrap", 400, "--json")  # trained, and shipped
    found = json.loads(scalectl(*asked, cwd=tables).stdout)
    assert (found["schema"], found["axis"], found["flops"]) == ("scalectl/compare@1", "C", "exact")
    (pair,) = found["comparisons"]
    assert (pair["first"]["name"], pair["second"]["name"]) == ("learned", "rotary")
    assert (pair["first"]["runs"], pair["first"]["sizes"], pair["seeds"]) == (20, 5, 4)
    assert pair["paired_by"] == "model.d_model"
    assert pair["noise_of_pairs"] < math.hypot(pair["first"]["noise"], pair["second"]["noise"])
    assert 2 < pair["seeds_needed"] < pair["seeds_needed_unpaired"]
    assert len(pair["savings"]) == 3
    for saving in pair["savings"]:
        assert pair["overlap"][0] < saving["loss"] < pair["overlap"][1]
        assert saving["value"] == pytest.approx(saving["needs"][0] / saving["needs"][1])
        assert 1 < saving["paired"][0] < saving["value"] < saving["paired"][1]
        assert saving["paired"][1] / saving["paired"][0] < saving["unpaired"][1] / saving["unpaired"][0]
        assert saving["beyond"] == [1.0, 1.0]
    one = json.loads(scalectl(*asked, "--claim", "0.1", cwd=tables).stdout)["comparisons"][0]
    assert one["seeds_needed"] < pair["seeds_needed"] / 15  # a claim five times as large takes a 23rd


def test_the_base_is_the_one_that_was_named(tables, scalectl):
    (pair,) = compared(scalectl, tables, "positions", "--by", "model.position", "--base", "rotary")["comparisons"]
    assert (pair["first"]["name"], pair["second"]["name"]) == ("rotary", "learned")
    wrong = scalectl("compare", "positions", "--by", "position", "--base", "rotry", cwd=tables, code=3)
    assert "did you mean rotary" in wrong.stderr


@pytest.mark.parametrize("axis", ["C", "N"])
def test_two_tables_give_the_saving_that_they_were_made_with(tables, scalectl, axis):
    found = compared(scalectl, tables, "plain.csv", "better.csv", "--axis", axis, "--loss", "0.9", "--loss", "0.85")
    (pair,) = found["comparisons"]
    assert (pair["first"]["name"], pair["paired_by"]) == ("plain.csv", "N")
    assert [saving["loss"] for saving in pair["savings"]] == [0.9, 0.85]
    assert [saving["value"] for saving in pair["savings"]] == pytest.approx([1.3, 1.3], rel=1e-3)
    assert pair["one_shape"]["value"] == pytest.approx(1.3, rel=1e-3)


def test_curves_without_a_common_loss_are_refused(tables, scalectl):
    refused = scalectl("compare", "plain.csv", "distant.csv", cwd=tables, code=1)
    assert "the curves do not overlap in loss" in refused.stderr
    assert "add larger runs of plain.csv, or smaller ones of distant.csv" in refused.stderr


def test_each_recipe_at_its_best_rate(tables, scalectl):
    found = compared(scalectl, tables, "mup-rates", "--by", "mup_base_width", "--best-over", "train.lr")
    (pair,) = found["comparisons"]
    assert (pair["first"]["name"], pair["second"]["name"]) == ("standard", "mup 256")
    assert (pair["first"]["runs"], pair["first"]["sizes"]) == (75, 5)  # three seeds
    assert [cell["values"][0] for cell in pair["second"]["best_over"]["cells"]] == [0.000125] * 5
    refused = scalectl("compare", "mup-rates", "--by", "mup_base_width", cwd=tables, code=2)
    assert "--best-over train.lr" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["plain.csv"], 2, "or scalectl compare A --by model.position"),
        (["plain.csv", "better.csv", "--by", "seed"], 2, "compare takes two targets, or one and the column"),
        (["plain.csv", "plain.csv"], 2, "plain.csv is compared with itself"),
        (["stdlib-ladder", "--by", "position"], 3, "there is nothing to compare"),
        (["stdlib-ladder", "positions", "--where", "position == 'learned'"], 2, "different data (eval.tokens differs)"),
        (["cpu-ladder", "--by", "seed"], 2, "their loss is no curve along C"),
        (["plain.csv", "better.csv", "--law", "chinchilla"], 2, "chinchilla is no law of one axis"),
        (["plain.csv", "better.csv", "--axis", "D"], 2, "N varies among the runs of plain.csv"),
        (["plain.csv", "better.csv", "--axis", "X"], 2, "use C, N, D"),
        (["plain.csv", "better.csv", "--claim", "2"], 2, "0.02 is a saving of 2 %"),
        (["plain.csv", "better.csv", "--bootstrap", "0"], 2, "a saving needs an interval"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_way_out(tables, scalectl, arguments, code, said):
    refused = scalectl("compare", *arguments, cwd=tables, code=code)
    assert said in " ".join(refused.stderr.split())
