"""`scalectl prepare` on the real command line: a corpus once into a token file, and a sweep from it."""

import contextlib
import json
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import SWEEP, environment

from scalectl.commands import prepare
from scalectl.core.errors import BudgetRefused, DataError, UsageError
from scalectl.tasks import tokens

TEXT = "def value(self, x): return x + 1  # für λ\n"
SOURCE = 'source = "markov"\nlength = 200000'


@pytest.fixture
def place(tmp_path):
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        texts = [f"{i + 100 * shard} " + TEXT * 20 for i in range(60)]
        pq.write_table(pa.table({"content": texts, "n": list(range(60))}), tmp_path / "shards" / f"{shard}.parquet")
    return tmp_path


def test_a_corpus_is_prepared_once_and_trained_on_offline(place, scalectl):
    arguments = ("prepare", "parquet:shards#content", "-o", "c.bin", "--train-tokenizer", 280)
    said = scalectl(*arguments, cwd=place).stdout
    assert said.startswith("Wrote c.bin, ")
    assert "120 documents, vocabulary 280 (c.tokenizer.json), " in said
    written = {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
    assert set(written) == {"shards", "c.bin", "c.bin.json", "c.tokenizer.json"}
    again = scalectl(*arguments, cwd=place).stdout
    assert again == said.replace("Wrote", "Up to date:")
    assert written == {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
    source = said.partition("[data] ")[2].strip()
    assert source == 'source = "tokens:c.bin"'
    (place / "tiny.toml").write_text(SWEEP.replace(SOURCE, source))
    for path in (place / "shards").iterdir():
        path.unlink()
    (place / "c.tokenizer.json").unlink()
    plan = json.loads(scalectl("plan", "tiny.toml", "--json", cwd=place).stdout)
    told = "c.bin of parquet:shards#content, tokenizer c.tokenizer.json"
    assert plan["shared"][:3] == [["source", "tokens:c.bin"], ["origin", told], ["vocab", "280"]]
    scalectl("sweep", "tiny.toml", cwd=place)
    scalectl("export", "tiny", "--long", "-o", "rows.parquet", cwd=place)
    rows = pq.read_table(place / "rows.parquet").to_pandas()
    assert f"source tokens:c.bin, origin {told}, vocab 280" in " ".join(scalectl("report", cwd=place).stdout.split())
    last = rows[(rows["step"] == 30) & (rows["split"] == "held-out")]
    held = last.pivot(index="run_id", columns="metric", values="value")
    data = tokens.open_data(tokens.Options(f"tokens:{place / 'c.bin'}"))
    judged = data.bytes_per_token(data.held_out(480, 16))
    assert judged > 2
    assert np.allclose(held["loss"] / np.log(2) / held["bits_per_byte"], judged, rtol=1e-12)
    assert len(held) == 6


def test_neither_preparing_nor_planning_on_tokens_imports_torch(place):
    (place / "tiny.toml").write_text(SWEEP.replace(SOURCE, 'source = "tokens:c.bin"'))
    script = (
        "import sys\nfrom scalectl.cli import app\n"
        "for line in (['prepare', 'parquet:shards#content', '-o', 'c.bin', '--train-tokenizer', '280'],\n"
        "             ['plan', 'tiny.toml']):\n    app(args=line, standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'scipy.stats', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "vocab 280" in done.stdout


def test_the_view_for_machines_has_every_fact(place, scalectl):
    found = json.loads(scalectl("prepare", "parquet:shards#content", "--json", cwd=place).stdout)
    assert next(iter(found)) == "schema"
    assert found["schema"] == "scalectl/prepare@1"
    assert found["path"] == "shards.bin"
    assert found["vocab"] == 256
    assert found["bytes_per_token"] == 1.0
    assert found["train_tokens"] + found["held_out_tokens"] == found["size"]
    assert found["fresh"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare", "parquet:shards#contnt"], ["has no column", "did you mean content?"]),
        (["prepare", "parquet:shards#n"], ["holds int64, not text", "columns of text: content"]),
        (["prepare", "stdlbi"], ["is no corpus", "stdlib"]),
        (["prepare", "markov"], ["is no corpus", "stdlib"]),
        (["prepare", "tokens:c.bin"], ["is a token file already", "tokens:c.bin"]),
        (["prepare", "text:none"], ["no text at", "text:PATH"]),
        (["prepare", "stdlib", "--tokenizer", "none.json"], ["no tokeniser at", "tokenizers"]),
        (["prepare", "stdlib", "--tokenizer", "a.json", "--train-tokenizer", "300"], ["give one"]),
        (["prepare", "stdlib", "--train-tokenizer", "10"], ["too small", "257"]),
        (["prepare", "stdlib", "--config", "x"], ["are for hf:NAME"]),
        (["prepare", "stdlib", "-o", "none/c.bin"], ["there is no folder none", "-o PATH.bin"]),
        (["prepare", "text:.", "-o", "c.bin"], ["c.bin lies in the folder that is read", "-o PATH.bin"]),
        (["prepare", "stdlib", "-o", "mine.bin"], ["exists already", "-o PATH.bin"]),
    ],
    ids=lambda held: " ".join(held[1:])[:60],
)
def test_what_cannot_be_prepared_is_said_in_a_few_lines_and_leaves_nothing(place, scalectl, arguments, said):
    (place / "mine.bin").write_bytes(b"mine")
    (place / "a.txt").write_text(TEXT)
    before = sorted(place.rglob("*"))
    done = scalectl(*arguments, cwd=place, code=2)
    assert done.stdout == ""
    assert all(part in done.stderr for part in said), done.stderr
    assert len(done.stderr.splitlines()) <= 3
    assert sorted(place.rglob("*")) == before
    assert (place / "mine.bin").read_bytes() == b"mine"


def test_a_changed_corpus_or_a_damaged_file_is_prepared_again(place, monkeypatch):
    monkeypatch.chdir(place)
    first = prepare.run("parquet:shards#content", "c.bin")
    assert first.fresh
    assert not prepare.run("parquet:shards#content", "c.bin").fresh
    content = (place / "c.bin").read_bytes()
    (place / "c.bin").write_bytes(content[:-1])
    again = prepare.run("parquet:shards#content", "c.bin")
    assert again == first
    assert (place / "c.bin").read_bytes() == content
    pq.write_table(pa.table({"content": [TEXT * 9] * 9}), place / "shards" / "2.parquet")
    more = prepare.run("parquet:shards#content", "c.bin")
    assert more.fresh
    assert more.documents == 129
    assert more.fingerprint != first.fingerprint


def test_a_tokeniser_that_is_there_is_never_trained_over(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "c.tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is not a `tokenizers` JSON file"):
        prepare.run("parquet:shards#content", "c.bin", train_vocab=280)
    (place / "c.tokenizer.json").unlink()
    first = prepare.run("parquet:shards#content", "c.bin", train_vocab=280)
    (place / "c.bin").unlink()
    with pytest.raises(UsageError, match="exists already") as caught:
        prepare.run("parquet:shards#content", "c.bin", train_vocab=280)
    assert "--tokenizer c.tokenizer.json" in caught.value.remedy
    assert prepare.run("parquet:shards#content", "c.bin", tokenizer="c.tokenizer.json") == first


@contextlib.contextmanager
def disk_of(size):
    """No file can grow beyond so many bytes, as on a disk that is full."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.parametrize(
    ("documents", "vocab", "size", "file"),
    [
        (60, None, 1000, "c.bin"),
        (60, 280, 1000, "c.tokenizer.json"),
        (60, 280, 16000, "c.bin"),
        (2, None, 300, "c.bin.json"),
    ],
)
def test_after_a_full_disk_the_same_command_works(tmp_path, monkeypatch, documents, vocab, size, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for i in range(documents):
        (tmp_path / "texts" / f"{i}.py").write_text(f"{i} {TEXT}" * (20 if documents > 2 else 1))
    with disk_of(size), pytest.raises(BudgetRefused, match=f"no space left to write {file}\n") as caught:
        prepare.run("text:texts", "c.bin", train_vocab=vocab)
    assert caught.value.exit_code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]
    assert prepare.run("text:texts", "c.bin", train_vocab=vocab).fresh
    if vocab:
        (tmp_path / "c.tokenizer.json").unlink()
        assert not prepare.run("text:texts", "c.bin", train_vocab=vocab).fresh
        assert (tmp_path / "c.tokenizer.json").exists()


def test_progress_is_told_in_bytes_and_tokens(place, monkeypatch):
    from scalectl.tasks import token_file

    monkeypatch.setattr(token_file, "AT_ONCE", 10_000)
    told = []
    monkeypatch.chdir(place)
    found = prepare.run("parquet:shards#content", "c.bin", seen=lambda done, tokens: told.append((done, tokens)))
    assert len(told) > 5
    assert told == sorted(told)
    assert told[-1][1] == found.train_tokens + found.held_out_tokens
