"""`scalectl evaluate`: finished runs judged on further data, from the parameters that they kept."""

from __future__ import annotations

import argparse
import codecs
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support import SWEEP

from scalectl.commands import clean, evaluate
from scalectl.core.errors import NothingMatched, StoreError, UsageError
from scalectl.store import evaluations
from scalectl.store.compact import load_rows
from scalectl.store.evaluations import JudgedOn, take_name, what_is
from scalectl.store.exchange import import_store
from scalectl.store.index import refresh
from scalectl.store.layout import open_store
from scalectl.store.sweeps import load_sweep

TEXT = SWEEP.replace('source = "markov"\nlength = 200000', 'source = "text:first.md"') + "\n[runtime]\n"

SCRIPT = f"""\
name = "script"
[run]
command = ["{sys.executable}", "script.py", "{{seed}}"]
N = 10
D = 10
[params]
seed = {{ grid = [0, 1] }}
"""


def written(folder, kept="true"):
    text = Path(argparse.__file__).read_text()
    (folder / "first.md").write_text(text)
    (folder / "other.md").write_text(codecs.encode(text, "rot13"))
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
    assert (column("other/loss") > column("held-out/loss")).all()  # letters that stand for others
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


def test_a_name_stands_for_the_same_data_in_all_of_a_store(folder, scalectl):
    judged(source="text:other.md", name="prose")
    for options in ({"source": "text:first.md"}, {"source": "text:other.md", "tokens": 960}, {"tokens": 960}):
        with pytest.raises(UsageError, match="prose is the name of another set"):
            judged(name="prose", **options)
    (folder / "moved.md").write_bytes((folder / "other.md").read_bytes())
    assert judged(source="text:moved.md", name="prose").known == 6
    (folder / "other.md").write_text("\n".join(sorted((folder / "first.md").read_text().split())))
    done = scalectl("evaluate", "tiny", "--on", "text:other.md", "--as", "prose", cwd=folder, code=2)
    assert 'prose is the name of an earlier state: "text:other.md", 480 tokens, which has changed' in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing to judge the runs on"),
        ({"tokens": 960}, "nothing to judge the runs on"),
        ({"source": "markov"}, "not what these runs learnt to read"),
        ({"source": "text:other.md", "name": "held-out"}, "no name for a set"),
        ({"source": "text:other.md", "name": "subtask01"}, "no name for a set"),
        ({"source": "text:other.md", "name": "../up"}, "no name for a set"),
        ({"source": "text:other.md", "name": "prose-subtask01"}, "no name for a set"),
        ({"source": "text:other.md", "tokens": 31}, "1 sequence of 16 would judge some of these runs"),
        ({"source": "text:other.md", "tokens": 1}, "0 sequences of 16|1 sequence of 16"),
        ({"source": "text:other.md", "device": "banana"}, 'no device "banana"'),
        ({"source": "text:other.md", "device": "cuda:99"}, 'no device "cuda:99"'),
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
    store = open_store("results")
    linked, kept, *_ = load_sweep(store, "tiny").current
    (store.kept / linked / "elsewhere").symlink_to(tmp_path)
    merged = import_store(here, folder / "results")
    assert (merged.judged, len(merged.kept)) == (6, 6)
    assert here.parameters(kept).read_bytes() == store.parameters(kept).read_bytes()
    assert [path.name for path in here.kept_folder(linked).iterdir()] == ["parameters"]
    assert import_store(here, folder / "results").kept == ()
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


@pytest.mark.parametrize("tokens", ["0", "-1", "nan", "inf", "banana"])
def test_what_is_no_number_of_tokens_is_refused(folder, scalectl, tokens):
    done = scalectl("evaluate", "tiny", "--on", "text:other.md", f"--tokens={tokens}", cwd=folder, code=2)
    assert "is not a positive number" in done.stderr


def test_more_tokens_than_there_are_take_all_and_say_how_many(folder):
    told = []
    all_of_it = evaluate.run("tiny", None, told.append, source="text:other.md", tokens=10**10)
    assert told[0] == f'"text:other.md" has {all_of_it.tokens} held-out tokens: all of them judge'
    assert 480 < all_of_it.tokens < (folder / "other.md").stat().st_size
    assert judged(source="text:other.md", tokens=all_of_it.tokens).known == 6


def test_a_text_too_short_to_judge_on_says_so(folder, scalectl):
    (folder / "short.md").write_text(("so short\n" * 6000)[: 3 * 16384 + 20])  # its last block of 16 KiB is held out
    done = scalectl("evaluate", "tiny", "--on", "text:short.md", "--tokens", "1M", cwd=folder, code=2)
    assert "1 sequence of 16 would judge some of these runs, and a loss takes two" in done.stderr
    assert '"text:short.md", 20 held-out tokens' in done.stderr
    assert "name a longer text with --on" in done.stderr


def test_runs_that_learnt_different_texts_are_judged_on_one(folder, scalectl):
    both = '["text:first.md", "text:other.md"]'
    text = TEXT.replace('"text:first.md"', f"{{ grid = {both} }}").replace("[8, 16, 32]", "[8]")
    (folder / "both.toml").write_text(text.replace('name = "tiny"', 'name = "both"') + "keep = true\n")
    scalectl("sweep", "both.toml", cwd=folder)
    done = scalectl("evaluate", "both", "--tokens", "960", "--as", "more", cwd=folder, code=2)
    assert "these runs learnt different data" in done.stderr
    assert not (folder / "results/evals").exists()
    found = json.loads(scalectl("evaluate", "both", "--on", "text:other.md", "--json", cwd=folder).stdout)
    assert found["judged"] == 4


def test_of_many_who_want_one_name_for_different_data_one_gets_it(tmp_path):
    store = open_store(tmp_path)
    asked = [JudgedOn(f"text:{i}", f"digest {i}", 480) for i in range(24)]

    def attempt(on):
        try:
            take_name(store, "prose", on)
        except UsageError as error:
            return error
        return on

    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(attempt, asked))
    (winner,) = [held for held in got if isinstance(held, JudgedOn)]
    assert what_is(store, "prose") == winner
    assert [entry.name for entry in (tmp_path / "evals/prose").iterdir()] == ["set.json"]
    take_name(store, "prose", replace(winner, source="text:elsewhere"))


def test_what_lies_under_a_name_and_is_not_of_it_counts_for_nothing(folder, scalectl):
    judged(source="text:other.md")
    store = open_store("results")
    one, two, three, *_ = load_sweep(store, "tiny").current
    evals = folder / "results/evals"
    (evals / "other").rename(evals / "renamed")
    assert "renamed/loss" not in refresh(store).table.column_names
    judged(source="text:first.md", name="other")
    ours = column("other/loss")
    shutil.copy(store.run_file(one), evals / f"other/{one}.parquet")
    shutil.copy(evals / f"renamed/{two}.parquet", evals / f"other/{two}.parquet")
    data = (evals / f"other/{three}.parquet").read_bytes()
    (evals / f"other/{three}.parquet").write_bytes(data[:-20])
    assert column("other/loss")[[one, two, three]].isna().all()
    said = scalectl("doctor", "--rebuild", cwd=folder, code=5).stdout
    assert f"evals/other/{one}.parquet: it holds no numbers of set other" in said
    assert f'evals/other/{two}.parquet: it is of other data: "text:other.md"' in said
    assert f"evals/other/{three}.parquet: " in said
    assert said.count("it holds no numbers of set renamed") == 6
    here = open_store(folder / "here")
    assert import_store(here, folder / "results").judged == 3
    shutil.rmtree(evals / "renamed")
    assert judged(source="text:first.md", name="other").judged == 3
    assert column("other/loss").equals(ours)
    scalectl("doctor", "--rebuild", cwd=folder)


def test_a_set_that_no_longer_says_what_it_is_is_taken_up_again(folder, scalectl):
    judged(source="text:other.md")
    about = folder / "results/evals/other/set.json"
    about.write_text('{"source": 1}')
    assert "other/loss" not in refresh(open_store("results")).table.column_names
    said = scalectl("doctor", "--rebuild", cwd=folder, code=5).stdout
    assert "evals/other/set.json: it is missing or damaged" in said
    assert judged(source="text:other.md").known == 6
    assert column("other/loss").notna().all()


def test_known_runs_cost_one_file_each(folder, monkeypatch):
    judged(source="text:other.md")
    read = []
    whole = evaluations.read_run
    monkeypatch.setattr(evaluations, "read_run", lambda path: read.append(path.stem) or whole(path))
    assert judged(source="text:other.md").known == 6
    assert sorted(read) == sorted(load_sweep(open_store("results"), "tiny").current)


def test_links_in_what_was_kept_lose_the_link_alone(folder, scalectl, tmp_path):
    store = open_store("results")
    one, *_ = load_sweep(store, "tiny").current
    elsewhere = (store.kept / one).rename(tmp_path / "elsewhere")
    (store.kept / one).symlink_to(elsewhere)
    script = store.kept / "0123456789abcdef"
    script.mkdir()
    (script / "latest").symlink_to(tmp_path)
    found = clean.run("tiny", None, "stale", parameters=True).removed
    assert len(found) == 5
    assert one not in {held.what for held in found}
    assert (elsewhere / "parameters").exists()
    (link,) = clean.run(None, None, "stale", parameters=True).removed
    assert (link.what, link.why) == (f"kept/{one}", "a link out of the store")
    assert (elsewhere / "parameters").exists()
    assert (script / "latest").is_symlink()


def test_a_folder_of_kept_parameters_that_leads_out_is_refused_before_the_training(folder, scalectl, tmp_path):
    shutil.rmtree(folder / "results/kept")
    (folder / "results/kept").symlink_to(tmp_path)
    (folder / "more.toml").write_text(f"{TEXT}keep = true\n".replace("steps = 30", "steps = 20"))
    done = scalectl("sweep", "more.toml", cwd=folder, code=5)
    assert "kept is a symbolic link out of the store" in done.stderr
    assert len(list((folder / "results/runs").iterdir())) == 6
    assert clean.run("tiny", None, "stale", parameters=True).removed == ()
    (link,) = clean.run(None, None, "stale").removed
    assert link.what == "kept"
    scalectl("sweep", "more.toml", cwd=folder)


def test_parameters_that_cannot_be_removed_or_read_say_why(folder, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StoreError, match="read-only"):
            clean.run("tiny", None, "stale", parameters=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", refuse)
        with pytest.raises(StoreError, match="cannot be read"):
            judged(source="text:other.md")
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        with pytest.raises(StoreError, match="read-only"):
            judged(source="text:other.md")
    assert not (folder / "results/evals").exists()


def test_runs_without_models_of_ours_say_so(folder, scalectl):
    (folder / "table.csv").write_text("N,D,loss\n1000,20000,3.1\n2000,40000,2.9\n3000,60000,2.8\n")
    scalectl("import", "table.csv", "--name", "table", cwd=folder)
    assert "a table that was imported" in scalectl("evaluate", "table", "--on", "stdlib", cwd=folder, code=2).stderr
    (folder / "script.py").write_text(
        "import os\nprint('{\"step\": 1, \"loss\": 3.5}', file=open(os.environ['SCALECTL_ROWS'], 'a'))\n"
    )
    (folder / "script.toml").write_text(SCRIPT)
    scalectl("sweep", "script.toml", cwd=folder)
    assert "are a script's" in scalectl("evaluate", "script", "--on", "stdlib", cwd=folder, code=2).stderr
