"""Data sets of the hub, through a loader of our own in place of the package: tests never load from the network."""

import io
import os
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from scalectl.core.errors import BudgetRefused, DataError
from scalectl.core.run import canonical
from scalectl.tasks import hf, text
from scalectl.tasks.corpus import by_content
from scalectl.tasks.token_file import write_tokens

TEXTS = [f"row {i} " * 50 for i in range(100)]


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the loader was asked for; it knows one data set."""
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path / "cache"))
    calls = []

    def load_dataset(name, config, *, split, revision, streaming):
        calls.append((name, config, split, revision, streaming))
        if name != "owner/known":
            raise FileNotFoundError(f"no data set {name}\nand a long story")
        for content in TEXTS:
            yield {"text": content, "id": 3, "title": "t", "nothing": None}

    module = types.ModuleType("datasets")
    module.load_dataset = lambda *a, **b: list(load_dataset(*a, **b))
    monkeypatch.setitem(sys.modules, "datasets", module)
    yield calls
    hf._opened.cache_clear()


def test_a_data_set_is_loaded_once_and_then_known_without_package_or_network(asked, monkeypatch):
    options = hf.Options("hf:owner/known", config="en", revision="abc")
    about, data = hf.describe(options), hf.open_data(options)
    assert asked == [("owner/known", "en", "train", "abc", True)]
    assert about.origin == "owner/known#text en train abc"
    whole = data.train[0].tobytes().split(b"\x00") + data.held[0].tobytes().split(b"\x00")
    assert sorted(whole) == sorted(t.encode() for t in TEXTS)
    hf._opened.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert hf.describe(options) == about
    assert np.array_equal(hf.open_data(options).train, data.train)
    with pytest.raises(DataError, match="datasets is not installed") as caught:
        hf.describe(replace(options, split="test"))
    assert caught.value.remedy == "pip install 'scalectl[hf]'"


def test_a_disk_that_fills_while_it_is_loaded_is_a_refusal(asked, monkeypatch):
    full = types.ModuleType("datasets")

    def load_dataset(*_, **__):
        try:
            os.write(os.open("/dev/full", os.O_WRONLY), b"x")
        except OSError as error:
            raise RuntimeError("an error occurred while generating the data set") from error

    full.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", full)
    with pytest.raises(BudgetRefused, match='no space left to load the data set "owner/known"') as caught:
        hf.describe(hf.Options("hf:owner/known"))
    assert caught.value.exit_code == 4


def test_what_came_is_identity_and_its_name_is_not(asked, bpe):
    options = hf.Options("hf:owner/known#text")
    expected = write_tokens(
        replace(hf.find_data_set(options.source), documents=lambda: by_content(t.encode() for t in TEXTS)),
        text.open_tokenizer("bytes"),
        io.BytesIO(),
    )
    assert hf.describe(options).fingerprint == expected.fingerprint
    assert canonical(options) == canonical(hf.Options("hf:other", split="x")) == {"source": "hf", "unique_tokens": None}
    assert hf.describe(replace(options, tokenizer=str(bpe))).vocab == 300


@pytest.mark.parametrize(
    ("source", "what", "remedy"),
    [
        ("hf:owner/unknown", "cannot be loaded: no data set owner/unknown", "data.config"),
        ("hf:owner/known#txt", 'has no column "txt"', "did you mean text?"),
        ("hf:owner/known#id", 'column "id" of "owner/known" holds int, not text', None),
        ("hf:owner/known#nothing", "is too short", "more text"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_a_clear_error(asked, source, what, remedy):
    with pytest.raises(DataError, match=what) as caught:
        hf.describe(hf.Options(source))
    assert "long story" not in str(caught.value)
    assert remedy is None or remedy in caught.value.remedy


def test_a_local_folder_is_read_again_when_it_changes(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text("{}")
    before = hf.find_data_set(f"hf:{tmp_path / 'set'}")
    (tmp_path / "set" / "a.jsonl").write_text("{} ")
    after = hf.find_data_set(f"hf:{tmp_path / 'set'}")
    assert before.stamp != after.stamp
    assert before.origin == "set#text train"
