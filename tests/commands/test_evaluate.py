"""`scalectl evaluate`: finished runs judged on further data, from the parameters that they kept."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from support import REPOSITORY, SWEEP

from scalectl.commands import clean, evaluate
from scalectl.core.errors import NothingMatched, StoreError, UsageError
from scalectl.store.compact import load_rows
from scalectl.store.exchange import import_store
from scalectl.store.index import refresh
from scalectl.store.layout import open_store
from scalectl.store.sweeps import load_sweep

TEXT = SWEEP.replace('source = "markov"\nlength = 200000', 'source = "text:first.md"') + "\n[runtime]\n"


def written(folder, kept="true"):
    text = (REPOSITORY / "README.md").read_text()
    (folder / "first.md").write_text(text)
    (folder / "other.md").write_text(text[::-1])
    (folder / "tiny.toml").write_text(f"{TEXT}keep = {kept}\n")
    return folder


@pytest.fixture(scope="module")
def trained(scalectl, tmp_path_factory):
    folder = written(tmp_path_factory.mktemp("kept"))
    scalectl("sweep", "tiny.toml", cwd=folder)
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """A copy of a finished sweep of six runs, and the working directory."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def judged(**options):
    told = []
    found = evaluate.run("tiny", None, told.append, **options)
    assert len(told) == found.judged
    return found


def column(name):
    frame = refresh(open_store("results")).frame().set_index("run_id")
    return frame[name]


def test_what_is_judged_again_is_what_was_measured_in_training(folder):
    found = judged(tokens=480, name="again")
    assert (found.judged, found.known, found.without) == (6, 0, 0)
    for metric in ("loss", "loss_se", "bits_per_byte"):
        assert column(f"again/{metric}").tolist() == pytest.approx(column(f"held-out/{metric}").tolist(), rel=1e-6)


def test_other_text_is_a_split_of_its_own_for_every_reader(folder, scalectl):
    found = json.loads(scalectl("evaluate", "tiny", "--on", "text:other.md", "--json", cwd=folder).stdout)
    assert {key: found[key] for key in ("schema", "set", "judged", "known", "without")} == {
        "schema": "scalectl/evaluate@1",
        "set": "other",
        "judged": 6,
        "known": 0,
        "without": 0,
    }
    assert found["losses"] == [column("other/loss").min(), column("other/loss").max()]
    assert (column("other/loss") > column("held-out/loss")).all()  # letters in an order that was never seen
    fitted = json.loads(
        scalectl("fit", "tiny", "--metric", "other/loss", "--bootstrap", "0", "--json", cwd=folder).stdout
    )
    assert fitted["fits"][0]["n"] == 6
    scalectl("export", "tiny", "-o", "out.csv", "--long", cwd=folder)
    rows = pd.read_csv(folder / "out.csv")
    assert set(rows[rows["split"] == "other"]["metric"]) == {"loss", "loss_se", "bits_per_byte"}
    assert set(pd.read_parquet(folder / "results/runs")["split"]) == {
        "train",
        "held-out",
    }  # run files stay as they were


def test_a_second_time_judges_only_what_is_missing(folder):
    judged(source="text:other.md")
    store = open_store("results")
    one, two, *_ = load_sweep(store, "tiny").current
    store.evaluation_file("other", one).unlink()
    store.evaluation_file("other", two).write_bytes(b"cut sho")
    before = column("other/loss").drop([one, two])
    assert two not in before
    found = judged(source="text:other.md")
    assert (found.judged, found.known) == (2, 4)
    assert column("other/loss").drop([one, two]).equals(before)
    assert column("other/loss").notna().all()


def test_compacted_rows_grow_by_what_is_judged_later(folder, monkeypatch):
    monkeypatch.setattr("scalectl.store.compact.LEAST", 1)
    store = open_store("results")
    runs = load_sweep(store, "tiny").current

    def splits():
        return set(load_rows(store, runs, sweep="tiny")[0]["split"])

    assert splits() == {"train", "held-out"}
    judged(source="text:other.md")
    assert splits() == splits() == {"train", "held-out", "other"}


def test_a_name_stands_for_the_same_data_in_all_of_a_store(folder):
    judged(source="text:other.md", name="prose")
    for options in ({"source": "text:first.md"}, {"source": "text:other.md", "tokens": 960}, {"tokens": 960}):
        with pytest.raises(UsageError, match="prose is the name of another set"):
            judged(name="prose", **options)
    (folder / "moved.md").write_bytes((folder / "other.md").read_bytes())
    assert judged(source="text:moved.md", name="prose").known == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing to judge the runs on"),
        ({"tokens": 960}, "nothing to judge the runs on"),
        ({"source": "markov"}, "not what these runs learnt to read"),
        ({"source": "text:other.md", "name": "held-out"}, "no name for a set"),
        ({"source": "text:other.md", "name": "subtask01"}, "no name for a set"),
        ({"source": "text:other.md", "name": "../up"}, "no name for a set"),
        ({"source": "text:other.md", "tokens": 0}, "--tokens 0"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_written(folder, options, said):
    with pytest.raises(UsageError, match=said):
        judged(**options)
    assert not (folder / "results/evals").exists()


def test_data_that_changed_since_the_training_are_not_more_of_it(folder, scalectl):
    (folder / "first.md").write_text((folder / "first.md").read_text() + "one more line\n")
    done = scalectl("evaluate", "tiny", "--tokens", 960, "--as", "more", cwd=folder, code=2)
    assert "the data of these runs changed" in done.stderr


def test_runs_that_kept_nothing_are_counted_and_a_sweep_of_them_is_refused(folder):
    first = clean.run("tiny", None, "stale", parameters=True, dry=True).removed
    assert len(first) == 6
    store = open_store("results")
    (store.kept / first[0].what / "parameters").unlink()
    found = judged(source="text:other.md")
    assert (found.judged, found.without) == (5, 1)
    assert len(clean.run("tiny", None, "stale", parameters=True).removed) == 5
    with pytest.raises(NothingMatched, match="kept its parameters") as caught:
        judged(source="text:other.md")
    assert "keep = true" in caught.value.remedy


def test_what_a_script_kept_stays_and_so_does_a_folder_with_more_in_it(folder):
    store = open_store("results")
    mine, *_ = load_sweep(store, "tiny").current
    script = store.kept / "0123456789abcdef"
    script.mkdir()
    (script / "parameters").write_bytes(b"of my own")
    (store.kept / mine / "notes.txt").write_text("seen")
    found = clean.run(None, None, "stale", parameters=True)
    assert sum(held.why == "final parameters" for held in found.removed) == 6
    assert sorted(path.name for path in store.kept.glob("*/*")) == ["notes.txt", "parameters"]
    assert (script / "parameters").read_bytes() == b"of my own"


def test_damaged_parameters_are_named_and_not_believed(folder):
    store = open_store("results")
    path = store.kept / load_sweep(store, "tiny").current[0] / "parameters"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read"):
        judged(source="text:other.md")


def test_a_store_that_is_merged_brings_what_its_runs_were_judged_on(folder, tmp_path):
    judged(source="text:other.md")
    here = open_store(tmp_path / "here")
    assert import_store(here, folder / "results").judged == 6
    assert refresh(here).table["other/loss"].null_count == 0
    assert import_store(here, folder / "results").judged == 0
    shutil.rmtree(folder / "results/evals")
    judged(source="text:first.md", name="other")
    with pytest.raises(UsageError, match="other is the name of another set"):
        import_store(here, folder / "results")


def test_the_plan_counts_the_disk_that_parameters_take(folder, scalectl):
    disk = {}
    for kept in ("false", "true"):
        (folder / "tiny.toml").write_text(f"{TEXT}keep = {kept}\n")
        disk[kept] = json.loads(scalectl("plan", "tiny.toml", "--results", "none", "--json", cwd=folder).stdout)["disk"]
    numbers = int(column("N_total").sum())
    assert disk["true"] - disk["false"] == 4 * numbers
    files = sum(path.stat().st_size for path in (folder / "results/kept").glob("*/parameters"))
    assert 4 * numbers <= files <= 4 * numbers + 6 * 4096
