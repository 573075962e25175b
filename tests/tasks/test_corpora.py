"""Corpora, tokenisers and token files: the same tokens however they are read, and clear words where they cannot be."""

import itertools
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from scalectl.core.cache import cache_folder
from scalectl.core.errors import DataError
from scalectl.core.run import canonical
from scalectl.tasks import corpus as corpora
from scalectl.tasks import text, token_file, tokens
from scalectl.tasks.corpus import BLOCK_BYTES, by_content, find_corpus
from scalectl.tasks.token_file import open_sidecar, sidecar_path, write_tokens
from scalectl.tasks.tokenizer import open_tokenizer, train_tokenizer


def prepared(corpus, tokenizer, path):
    with path.open("wb") as file:
        sidecar = write_tokens(corpus, tokenizer, file)
    sidecar_path(path).write_bytes(sidecar.dump())
    return tokens.Options(f"tokens:{path}")


def rows(path, texts, column="text", kind=None):
    pq.write_table(pa.table({column: pa.array(texts, kind)}), path)


def same(one, other):
    assert np.array_equal(one.batches([1, 2], [0, 9], 4, 32), other.batches([1, 2], [0, 9], 4, 32))
    held = one.held_out(2_000, 32)
    assert np.array_equal(held, other.held_out(2_000, 32))
    assert one.bytes_per_token(held) == other.bytes_per_token(held) is not None


@pytest.mark.parametrize("tokenised", [False, True])
def test_a_memory_map_gives_the_batches_of_memory(folder, bpe, tmp_path, monkeypatch, tokenised):
    name = str(bpe) if tokenised else "bytes"
    options = text.Options(f"text:{folder}", tokenizer=name)
    mapped = text.open_data(options) if tokenised else tokens.open_data(
        prepared(find_corpus(f"text:{folder}"), open_tokenizer(name), tmp_path / "a.bin")
    )  # fmt: skip
    assert isinstance(mapped.train.base.base, np.memmap)
    text._opened.cache_clear()
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path / "file" / "cache"))  # cannot be written
    in_memory = text.open_data(options)
    same(mapped, in_memory)
    assert not isinstance(in_memory.train.base.base, np.memmap)


def test_a_prepared_file_gives_the_batches_of_its_source(folder, bpe, tmp_path):
    one = tmp_path / "one.txt"
    one.write_bytes(b"".join(path.read_bytes() for path in sorted(folder.iterdir())))
    for i, (source, name) in enumerate(itertools.product((f"text:{folder}", f"text:{one}"), ("bytes", str(bpe)))):
        corpus = find_corpus(source, characters=name != "bytes")
        options = prepared(corpus, open_tokenizer(name), tmp_path / f"{i}.bin")
        direct = text.Options(source, tokenizer=name)
        same(tokens.open_data(options), text.open_data(direct))
        assert tokens.describe(options).vocab == text.describe(direct).vocab
        assert tokens.describe(replace(options, unique_tokens=99)).train_tokens == 99


def test_tokens_give_the_text_back_with_one_separator_between_documents(folder, bpe):
    plain = text.open_data(text.Options(f"text:{folder}"))
    split = text.open_data(text.Options(f"text:{folder}", tokenizer=str(bpe)))
    library, end = tokenizers.Tokenizer.from_file(str(bpe)), open_tokenizer(str(bpe)).separator
    for whole, ids in ((plain.train[0], split.train[0]), (plain.held[0], split.held[0])):
        documents = np.split(ids, np.flatnonzero(ids == end))
        texts = [library.decode([i for i in held.tolist() if i != end]) for held in documents]
        assert "\x00".join(texts).encode() == whole.tobytes()
        assert len(ids) < 0.8 * len(whole)


def test_bits_per_byte_count_exactly_the_bytes_of_the_windows_that_are_judged(folder, bpe):
    """Cut out of the text by hand: decode up to both ends of each window."""
    data = text.open_data(text.Options(f"text:{folder}", tokenizer=str(bpe)))
    end = open_tokenizer(str(bpe)).separator
    pieces = {i: piece for piece, i in tokenizers.Tokenizer.from_file(str(bpe)).get_vocab().items()}
    held = data.held_out(960, 32)
    counted = sum(1 if i == end else len(pieces[i]) for i in held[:, 1:].ravel().tolist())  # a byte is a character
    assert data.bytes_per_token(held) == pytest.approx(counted / held[:, 1:].size, rel=1e-12)
    everything = data.held_out(10**9, 1)
    plain = text.open_data(text.Options(f"text:{folder}"))
    first = 1 if data.held[0, 0] == end else len(pieces[int(data.held[0, 0])])
    assert data.bytes_per_token(everything) * len(everything) == pytest.approx(plain.held.size - first, rel=1e-12)
    assert plain.bytes_per_token(plain.held_out(960, 32)) == 1.0


def test_a_document_is_on_one_side_with_all_its_copies():
    found = list(by_content([f"text {i % 200}".encode() for i in range(600)]))
    assert 5 < len({d.text for d in found if d.held}) < 30
    assert not {d.text for d in found if d.held} & {d.text for d in found if not d.held}
    alone = list(by_content([b"a", b"b"]))
    assert [d.held for d in alone] == [False, True]  # chance held none out, so the last one is


@pytest.mark.parametrize("shift", range(3))
def test_blocks_of_one_file_end_between_characters_and_lose_nothing(tmp_path, shift):
    content = ("x" * shift + "数" * BLOCK_BYTES).encode() + b"\xff\x80\x80\x80\x80 tail"
    (tmp_path / "t.txt").write_bytes(content)
    source = f"text:{tmp_path / 't.txt'}"
    blocks = [d.text for d in find_corpus(source, characters=True).documents()]
    assert b"".join(blocks) == content
    assert all(block.decode()[-1] == "数" for block in blocks[:-1])
    assert [len(d.text) for d in find_corpus(source).documents()][:3] == [BLOCK_BYTES] * 3


def test_a_table_of_one_file_or_of_shards_is_the_same_text(tmp_path):
    texts = [f"document {i} " * 30 for i in range(90)]
    rows(tmp_path / "all.parquet", [*texts[:40], None, "", *texts[40:]])
    (tmp_path / "shards").mkdir()
    rows(tmp_path / "shards" / "0.parquet", texts[:50], kind=pa.large_string())
    rows(tmp_path / "shards" / "1.parquet", texts[50:], kind=pa.dictionary(pa.int32(), pa.string()))
    one, shards = (text.Options(f"parquet:{tmp_path / name}") for name in ("all.parquet", "shards#text"))
    assert text.describe(one).fingerprint == text.describe(shards).fingerprint
    assert canonical(one) == canonical(shards) == {"source": "parquet", "unique_tokens": None}
    data = text.open_data(one)
    whole = data.train[0].tobytes().split(b"\x00") + data.held[0].tobytes().split(b"\x00")
    assert sorted(whole) == sorted(t.encode() for t in texts)
    assert data.train[0].tobytes() == b"\x00".join(
        t.encode() for t in texts if t.encode() not in data.held[0].tobytes()
    )


def test_a_table_that_cannot_be_read_is_a_clear_error(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"content": ["a"], "title": ["b"], "n": [1]}), path)
    cases = {
        f"parquet:{tmp_path / 'none.parquet'}#text": ("no Parquet file at", "PATH#COLUMN"),
        f"parquet:{path}#contnt": ('has no column "contnt"', "did you mean content?"),
        f"parquet:{path}": ('has no column "text"', "content, title"),
        f"parquet:{path}#n": ('column "n" of t.parquet holds int64, not text', "columns of text: content, title"),
    }
    for source, (what, remedy) in cases.items():
        with pytest.raises(DataError, match=what) as caught:
            text.describe(text.Options(source))
        assert remedy in caught.value.remedy
    content = path.read_bytes()
    for damaged in (content[:-20], b"PAR1" + b"x" * 200, b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"t\.parquet cannot be read"):
            text.describe(text.Options(f"parquet:{path}#content"))
    rows(path, ["a long enough text " * 200] * 2_000)
    content = bytearray(path.read_bytes())
    content[20:60] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.parquet cannot be read"):
        text.describe(text.Options(f"parquet:{path}"))


def test_installed_packages_are_read_once_each_and_known_by_content(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    for i in range(80):
        (site / f"p{i}").mkdir(parents=True)
        (site / f"p{i}" / "a.py").write_text(f"value = {i}\n" * 40)
        (site / f"p{i}" / "__init__.py").write_text("# the same in all\n" * 9)
        (site / f"p{i}" / "data.txt").write_text("no source")
    (site / "p0" / "gone.py").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(site))
    options = text.Options("python-packages")
    data, about = text.open_data(options), text.describe(options)
    both = data.train[0].tobytes() + b"\x00" + data.held[0].tobytes()
    assert len(both.split(b"\x00")) == 81
    assert both.count(b"the same in all") == 9
    assert b"no source" not in both
    text._opened.cache_clear()
    shutil.move(site, tmp_path / "elsewhere")
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(tmp_path / "elsewhere"))
    assert text.describe(options).fingerprint == about.fingerprint
    text._opened.cache_clear()
    (tmp_path / "elsewhere" / "p3" / "a.py").write_text("another\n")
    assert text.describe(options).fingerprint != about.fingerprint


# --- tokenisers


def test_the_tokeniser_is_identity_by_its_content_not_its_place(folder, bpe, tmp_path):
    source = f"text:{folder}"
    shutil.copy(bpe, tmp_path / "copy.json")
    here, there = (text.Options(source, tokenizer=str(p)) for p in (bpe, tmp_path / "copy.json"))
    assert canonical(here) == canonical(there) == canonical(text.Options(source))
    fingerprint = text.describe(here).fingerprint
    assert fingerprint == text.describe(there).fingerprint != text.describe(text.Options(source)).fingerprint
    other = tmp_path / "other.json"
    other.write_bytes(train_tokenizer((p.read_bytes() for p in sorted(folder.iterdir())), 290))
    assert text.describe(replace(here, tokenizer=str(other))).fingerprint != fingerprint


def test_training_a_tokeniser_twice_gives_the_same_one(folder, bpe):
    again = train_tokenizer((p.read_bytes() for p in sorted(folder.iterdir())), 300)
    assert again == bpe.read_bytes()
    held = open_tokenizer(str(bpe))
    assert (held.vocab, held.separator, held.dtype) == (300, 0, "uint16")
    with pytest.raises(DataError, match="a vocabulary of 10 is too small"):
        train_tokenizer([b"abc"], 10)
    with pytest.raises(DataError, match=r"the text gives \d+ symbols, fewer than 9000"):
        train_tokenizer([b"abc abc"], 9_000)


def test_the_name_of_a_special_token_in_a_text_is_text(bpe):
    held = open_tokenizer(str(bpe))
    ids = held.encode([b"a <|endoftext|> b"])[0]
    assert held.separator not in ids
    assert held.faithful(b"a <|endoftext|> b", ids)


def test_bytes_that_are_no_text_are_replaced_and_counted_as_replaced(bpe):
    held = open_tokenizer(str(bpe))
    ids = held.encode([b"caf\xe9!"])[0]
    assert held.faithful(b"caf\xe9!", ids)
    assert held.token_bytes[ids].sum() == len("caf\ufffd!".encode())


def saved(path, model, **parts):
    held = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(held, name, part)
    held.save(str(path))
    return str(path)


def test_a_tokeniser_that_does_not_keep_text_whole_has_no_bits_per_byte(folder, tmp_path):
    letters = {chr(c): c - 32 for c in range(32, 127)}
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole = {c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    cases = {
        "lower": (saved(tmp_path / "l.json", models.BPE(whole, []), pre_tokenizer=level, decoder=decoders.ByteLevel(),
                        normalizer=normalizers.Lowercase()), False),
        "unknown": (saved(tmp_path / "u.json", models.BPE(letters | {"?": 200}, [], unk_token="?"),
                          pre_tokenizer=level, decoder=decoders.ByteLevel()), False),
        "pieces": (saved(tmp_path / "w.json", models.WordPiece({"[UNK]": 0, "self": 1}, unk_token="[UNK]"),
                         pre_tokenizer=pre_tokenizers.Whitespace(), decoder=decoders.WordPiece()), False),
        "level": (saved(tmp_path / "b.json", models.BPE(whole, []), pre_tokenizer=level,
                        decoder=decoders.ByteLevel()), True),
    }  # fmt: skip
    (tmp_path / "text").mkdir()
    for i in range(30):
        (tmp_path / "text" / f"{i}.txt").write_text(f"Self self {i} CAPITALS\n" * 50)
    for name, (path, keeps) in cases.items():
        data = text.open_data(text.Options(f"text:{tmp_path / 'text'}", tokenizer=path))
        found = data.bytes_per_token(data.held_out(64, 16))
        assert (found is not None) == keeps, name
    assert text.describe(text.Options(f"text:{tmp_path / 'text'}", tokenizer=cases["level"][0])).vocab == 257


def test_pieces_that_mark_spaces_count_their_bytes(tmp_path):
    vocab = {
        "<unk>": 0,
        "</s>": 1,
        **{f"<0x{b:02X}>": b + 2 for b in range(256)},
        "▁": 258,
        "a": 259,
        "▁a": 260,
        "λ": 261,
    }
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    path = saved(tmp_path / "s.json", models.BPE(vocab, [("▁", "a")], unk_token="<unk>", byte_fallback=True),
                 pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="never"), decoder=decoder)  # fmt: skip
    held = open_tokenizer(path)
    for sample in ("a a λ数\n", " a"):
        ids = held.encode([sample.encode()])[0]
        assert held.token_bytes[ids].sum() == len(sample.encode())
        assert held.faithful(sample.encode(), ids)
    assert held.separator == 1
    assert held.token_bytes[1] == 1


def test_the_space_that_a_tokeniser_puts_before_a_document_is_its_separators_byte(folder, tmp_path):
    vocab = {"<unk>": 0, "</s>": 1, "▁": 2} | {f"<0x{i:02X}>": i + 3 for i in range(256)} | {"▁a": 259, "a": 260}
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    path = saved(tmp_path / "s.json", models.BPE(vocab, [("▁", "a")], unk_token="<unk>", byte_fallback=True),
                 pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always"), decoder=decoder)  # fmt: skip
    place = tmp_path / "short"
    place.mkdir()
    for i in range(300):
        (place / f"{i}.txt").write_text("a b"[: 1 + i % 3])
    counted, bytes_ = (text.open_data(text.Options(f"text:{place}", tokenizer=name)) for name in (str(path), "bytes"))
    held = counted.token_bytes[counted.held[0]].sum()
    assert held == bytes_.held.size + 1  # a byte before each document, and not between two


def test_a_tokeniser_that_cannot_be_used_is_a_clear_error(folder, tmp_path, monkeypatch):
    (tmp_path / "bad.json").write_text('{"model": 3}')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    cases = {
        str(tmp_path / "none.json"): ("no tokeniser at", "tokenizers"),
        "byte": ("no tokeniser at", "did you mean bytes?"),
        str(tmp_path): ("no tokeniser at", "tokenizers"),
        str(tmp_path / "bad.json"): (r"bad\.json is not a `tokenizers` JSON file", "tokenizer.save"),
        str(tmp_path / "binary.json"): (r"binary\.json is not a `tokenizers` JSON file", "tokenizer.save"),
    }
    for name, (what, remedy) in cases.items():
        with pytest.raises(DataError, match=what) as caught:
            text.describe(text.Options(f"text:{folder}", tokenizer=name))
        assert remedy in caught.value.remedy
        assert caught.value.key == "tokenizer"
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(DataError, match="not installed") as caught:
        open_tokenizer(str(tmp_path / "bad.json"))
    assert caught.value.remedy == "pip install 'scalectl[hf]'"


def test_a_sweep_reads_by_itself_only_what_it_can_hold(folder, bpe, monkeypatch):
    monkeypatch.setattr(token_file, "DIRECT_TOKENIZED", 100_000)
    with pytest.raises(DataError, match="the most that a sweep tokenises by itself") as caught:
        text.describe(text.Options(f"text:{folder}", tokenizer=str(bpe)))
    assert caught.value.remedy.startswith(f"scalectl prepare 'text:{folder}' --tokenizer")
    monkeypatch.setattr(token_file, "DIRECT", 100_000)
    with pytest.raises(DataError, match="the most that a sweep reads by itself"):
        text.describe(text.Options(f"text:{folder}"))


# --- the cache


def test_a_kept_corpus_follows_its_files_and_survives_damage(folder, bpe, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path / "cache"))
    place = shutil.copytree(folder, tmp_path / "text")
    options = text.Options(f"text:{place}", tokenizer=str(bpe))
    first = text.describe(options)
    kept = next((cache_folder() / "corpora").glob("*.bin"))

    def again():
        text._opened.cache_clear()
        return text.describe(options)

    monkeypatch.setattr(token_file, "write_tokens", None)  # nothing is tokenised again
    assert again() == first
    monkeypatch.undo()
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path / "cache"))
    kept.write_bytes(kept.read_bytes()[:-3] + b"abc")
    assert again() == first
    sidecar_path(kept).write_text("{")
    assert again() == first
    (place / "3.txt").write_text("another text")
    assert again().fingerprint != first.fingerprint
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".")]


def test_a_large_file_is_read_once_and_again_when_it_changes(folder, tmp_path, monkeypatch):
    options = prepared(find_corpus(f"text:{folder}"), open_tokenizer("bytes"), tmp_path / "a.bin")
    first = tokens.describe(options)
    tokens._opened.cache_clear()
    monkeypatch.setattr(token_file, "CHUNK", None)  # nothing can be read in pieces any more
    assert open_sidecar(tmp_path / "a.bin").train_tokens == first.train_tokens
    monkeypatch.undo()
    content = bytearray((tmp_path / "a.bin").read_bytes())
    content[5] ^= 1
    (tmp_path / "a.bin").write_bytes(content)
    os.utime(tmp_path / "a.bin")
    with pytest.raises(DataError, match="is not the file that its sidecar describes"):
        tokens.describe(options)


# --- token files


def test_a_sidecar_that_does_not_fit_is_a_clear_error(folder, tmp_path):
    path = tmp_path / "a.bin"
    options = prepared(find_corpus(f"text:{folder}"), open_tokenizer("bytes"), path)
    good = json.loads(sidecar_path(path).read_text())
    cases = [
        ({"train_tokens": good["train_tokens"] + 1}, "bytes, and its sidecar says"),
        ({"vocab": 100}, "token_bytes has 256 symbols, not 100"),
        ({"vocab": 100, "token_bytes": ""}, "beyond a vocabulary of 100"),
        ({"dtype": "float32"}, "is no sidecar of a token file"),
        ({"dtype": "uint16"}, "bytes, and its sidecar says"),
        ({"token_bytes": "?"}, "is no sidecar of a token file"),
        ({"vocab": "many"}, "is no sidecar of a token file"),
        ({"schema": "scalectl/tokens@9"}, "this version reads scalectl/tokens@1"),
        ({"extra": 1}, "is no sidecar of a token file"),
    ]
    for change, said in cases:
        sidecar_path(path).write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=said):
            tokens.describe(options)
    for content in ("", "[]", "{}", "\x00"):
        sidecar_path(path).write_text(content)
        with pytest.raises(DataError, match="is no sidecar of a token file"):
            tokens.describe(options)
    sidecar_path(path).write_text(json.dumps(good))
    assert tokens.describe(options).vocab == 256
    tokens._opened.cache_clear()
    assert tokens.describe(replace(options, vocab=300)).vocab == 300
    for change, said in ({"vocab": 200}, "200 symbols are fewer than the 256"), ({"dtype": "uint16"}, "has a sidecar"):
        with pytest.raises(DataError, match=said) as caught:
            tokens.describe(replace(options, **change))
        assert caught.value.key == next(iter(change))
    with pytest.raises(DataError, match="no token file at") as caught:
        tokens.describe(tokens.Options(f"tokens:{tmp_path / 'none.bin'}"))
    assert "scalectl prepare" in caught.value.remedy


def test_a_bare_array_as_nanogpt_writes_it(tmp_path, bpe):
    ids = (np.arange(32_000) % 290).astype("<u2")
    ids.tofile(tmp_path / "train.bin")
    (ids[:500] % 7).tofile(tmp_path / "val.bin")
    bare = tokens.Options(f"tokens:{tmp_path / 'train.bin'}")
    for options, key in ((bare, "dtype"), (replace(bare, dtype="uint16"), "vocab")):
        with pytest.raises(DataError, match="has no sidecar that says") as caught:
            tokens.describe(options)
        assert caught.value.key == key
    raw = replace(bare, dtype="uint16", vocab=290)
    about, data = tokens.describe(raw), tokens.open_data(raw)
    assert (about.vocab, about.train_tokens, about.held_out_tokens) == (290, 30_000, 2_000)
    assert np.array_equal(np.concatenate([data.train[0], data.held[0]]), ids)
    assert data.bytes_per_token(data.held_out(64, 16)) is None
    apart = replace(raw, held_out=str(tmp_path / "val.bin"))
    assert tokens.describe(apart).train_tokens == 32_000
    assert tokens.describe(apart).held_out_tokens == 500
    assert tokens.describe(apart).fingerprint != about.fingerprint
    known = replace(bare, dtype="uint16", tokenizer=str(bpe))
    assert tokens.describe(known).vocab == 300
    assert tokens.open_data(known).bytes_per_token(data.held_out(64, 16)) > 1
    os.rename(tmp_path / "train.bin", tmp_path / "moved.bin")
    assert tokens.describe(replace(raw, source=f"tokens:{tmp_path / 'moved.bin'}")).fingerprint == about.fingerprint


def test_a_bare_array_that_cannot_be_is_a_clear_error(tmp_path):
    path = tmp_path / "a.bin"
    raw = tokens.Options(f"tokens:{path}", vocab=50, dtype="uint16")
    np.arange(60).astype("<u2").tofile(path)
    with pytest.raises(DataError, match=r"a\.bin holds token 59, beyond a vocabulary of 50"):
        tokens.describe(raw)
    path.write_bytes(b"abc")
    with pytest.raises(DataError, match="3 bytes are no array of uint16"):
        tokens.describe(raw)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="it is empty"):
        tokens.describe(raw)
    path.write_bytes(b"\x01\x00")
    with pytest.raises(DataError, match="too short"):
        tokens.describe(raw)
    np.arange(40).astype("<u2").tofile(path)
    with pytest.raises(DataError, match="no token file at") as caught:
        tokens.describe(replace(raw, held_out=str(tmp_path / "val.bin")))
    assert caught.value.key == "held_out"
    shutil.copy(path, tmp_path / "val.bin")
    with pytest.raises(DataError, match=r"val\.bin holds the tokens that are trained on"):
        tokens.describe(replace(raw, held_out=str(tmp_path / "val.bin")))
