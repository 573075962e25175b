"""The contract of every task, and what each of them promises beside it."""

import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from scalectl.core.errors import UsageError
from scalectl.core.run import canonical
from scalectl.tasks import TASKS, hf, markov, text, tokens, windows
from scalectl.tasks.corpus import find_corpus
from scalectl.tasks.token_file import sidecar_path, write_tokens
from scalectl.tasks.tokenizer import AS_BYTES
from scalectl.tasks.windows import DATA_STREAM, Windows
from scalectl.tasks.windows import _Orders as Orders

# tasks whose windows a model's context cuts; the others are in test_problems.py and test_images.py
STREAMS = [task for task in TASKS.values() if task.kind == "text"]


def markov_text(i):
    """A document of letters that repeats no window."""
    return "".join(map(chr, markov._chains(26, 0, 1, 300)[i] + 97))


@pytest.fixture(scope="module")
def SOURCES(tmp_path_factory):
    """Options of every task: small data of each kind."""
    path = tmp_path_factory.mktemp("tokens") / "stdlib.bin"
    with path.open("wb") as file:
        sidecar = write_tokens(find_corpus("stdlib"), AS_BYTES, file)
    sidecar_path(path).write_bytes(sidecar.dump())
    loader = types.ModuleType("datasets")
    loader.load_dataset = lambda *a, **b: ({"text": markov_text(i)} for i in range(300))
    sys.modules["datasets"] = loader  # known from the cache from here on
    hf.describe(hf.Options("hf:stands-for-all"))
    del sys.modules["datasets"]
    return {
        "text": text.Options("stdlib"),
        "tokens": tokens.Options(f"tokens:{path}"),
        "hf": hf.Options("hf:stands-for-all"),
        "markov": markov.Options(length=300_000),
    }


@pytest.mark.parametrize("task", STREAMS, ids=lambda task: task.name)
def test_a_batch_is_a_function_of_seed_and_step(task, SOURCES):
    data, again = (task.open_data(SOURCES[task.name]) for _ in range(2))
    batch = data.batch(3, 17, 8, 32)
    assert batch.shape == (8, 33)
    assert batch.dtype == np.int64
    assert np.array_equal(batch, again.batch(3, 17, 8, 32))
    assert not np.array_equal(batch, data.batch(4, 17, 8, 32))
    assert not np.array_equal(batch, data.batch(3, 18, 8, 32))


@pytest.mark.parametrize("task", STREAMS, ids=lambda task: task.name)
def test_the_batches_of_a_pack_are_those_of_its_members(task, SOURCES):
    data = task.open_data(SOURCES[task.name])
    joint = data.batches([3, 4, 3], [17, 5, 0], 8, 32)
    assert joint.shape == (3, 8, 33)
    assert np.array_equal(joint, [data.batch(3, 17, 8, 32), data.batch(4, 5, 8, 32), data.batch(3, 0, 8, 32)])


@pytest.mark.parametrize("task", STREAMS, ids=lambda task: task.name)
def test_the_description_is_that_of_the_data(task, SOURCES):
    about, data = task.describe(SOURCES[task.name]), task.open_data(SOURCES[task.name])
    assert about.train_tokens == data.train.size
    assert about.held_out_tokens == data.held.size
    held = data.held_out(4_096, 32)
    assert held.shape == (128, 33)
    assert 0 <= held.min() <= held.max() < about.vocab
    assert np.array_equal(held, data.held_out(4_096, 32))
    assert task.accepts(SOURCES[task.name].source)


@pytest.mark.parametrize("task", STREAMS, ids=lambda task: task.name)
@pytest.mark.parametrize("context", [16, 1_000])
def test_the_description_says_how_many_tokens_an_epoch_holds(task, context, SOURCES):
    about, data = task.describe(SOURCES[task.name]), task.open_data(SOURCES[task.name])
    count = about.reachable(context) // context
    first = data.batch(0, 0, count, context)
    assert len({row.tobytes() for row in data.batch(0, 0, 2 * count, context)}) == len({row.tobytes() for row in first})
    assert count == data.train.shape[0] * ((data.train.shape[1] - 1) // context)
    assert not np.array_equal(data.batch(0, 1, count, context), first)


@pytest.mark.parametrize("task", STREAMS, ids=lambda task: task.name)
def test_the_description_knows_the_longest_window(task, SOURCES):
    source = replace(SOURCES[task.name], unique_tokens=5_000)
    longest, data = task.describe(source).longest - 1, task.open_data(source)
    assert data.batch(0, 0, 1, longest).shape == data.held_out(1, longest).shape == (1, longest + 1)
    with pytest.raises(ValueError, match="fewer than one window"):
        data.batch(0, 0, 1, longest + 1)


def test_an_epoch_visits_every_window_once_and_the_next_in_another_order():
    data = Windows(np.arange(101)[None], np.arange(11)[None])
    first, second = ([int(data.batch(0, step, 2, 10)[row, 0]) for step in steps for row in (0, 1)] for steps in
                     (range(5), range(5, 10)))  # fmt: skip
    assert sorted(first) == sorted(second) == list(range(0, 100, 10))
    assert first != second


def test_a_batch_may_straddle_two_epochs():
    data = Windows(np.arange(31)[None], np.arange(11)[None])
    begins = [int(row[0]) for step in range(3) for row in data.batch(0, step, 2, 10)]
    assert sorted(begins[:3]) == sorted(begins[3:]) == [0, 10, 20]


def test_the_order_of_an_epoch_is_numpys_permutation_whatever_its_width():
    for count in (1, 10, 1_000):
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([DATA_STREAM, 7, 2])))
        assert np.array_equal(Orders()(7, 2, count), generator.permutation(count))


def test_orders_are_forgotten_by_their_size_the_oldest_first(monkeypatch):
    monkeypatch.setattr(windows, "ORDER_BYTES", 12_000)
    orders = Orders()
    first = orders(0, 0, 1_000)
    for seed in (1, 2):
        orders(seed, 0, 1_000)
    assert orders(0, 0, 1_000) is first  # asked for again, so seed 1 is now the oldest
    orders(3, 0, 1_000)
    assert [key[0] for key in orders.kept] == [2, 0, 3]
    assert len(Orders()(0, 0, 10_000)) == 10_000  # the one in use stays, whatever its size


def test_bytes_per_token_are_those_of_the_targets_that_are_judged():
    sizes = np.array([1, 3, 5, 7], dtype=np.uint16)
    data = Windows(np.zeros((1, 9), np.uint8), np.array([[3, 0, 1, 2, 2, 3, 0, 0, 0]], np.uint8), sizes)
    held = data.held_out(4, 4)
    assert held.tolist() == [[3, 0, 1, 2, 2]]
    assert data.bytes_per_token(held) == (1 + 3 + 5 + 5) / 4
    assert data.bytes_per_token(data.held_out(8, 4)) == (1 + 3 + 5 + 5 + 7 + 1 + 1 + 1) / 8
    assert Windows(data.train, data.held).bytes_per_token(held) is None


def test_windows_never_cross_a_segment():
    data = Windows(np.arange(200).reshape(4, 50), np.arange(50)[None])
    for step in range(10):
        for row in data.batch(1, step, 4, 16):
            assert row[0] // 50 == row[-1] // 50


def test_too_little_data_for_one_window_is_said():
    with pytest.raises(ValueError, match="fewer than one window"):
        Windows(np.arange(5)[None], np.arange(5)[None]).batch(0, 0, 1, 10)


def test_held_out_files_of_the_standard_library_are_not_trained_on():
    data = text.open_data(text.Options("stdlib"))
    train, held = bytes(data.train[0]), bytes(data.held[0])
    parts = [part for part in held.split(b"\x00") if len(part) > 400]
    assert len(parts) > 10
    assert all(part[:400] not in train for part in parts[:40])
    assert 0.02 < len(held) / len(train) < 0.2


def test_unique_tokens_is_a_prefix_of_the_whole():
    whole = text.open_data(text.Options("stdlib")).train[0]
    part = text.open_data(text.Options("stdlib", unique_tokens=5_000)).train[0]
    assert np.array_equal(part, whole[:5_000])
    assert text.describe(text.Options("stdlib", unique_tokens=5_000)).train_tokens == 5_000


def test_a_file_and_a_folder_of_text_are_split_and_fingerprinted(tmp_path):
    for name in "abcdefgh":
        (tmp_path / f"{name}.txt").write_text(f"text of {name} " * 2_000)
    folder = text.describe(text.Options(f"text:{tmp_path}"))
    one = text.describe(text.Options(f"text:{tmp_path / 'a.txt'}"))
    assert folder.train_tokens + folder.held_out_tokens == pytest.approx(8 * 20_000, rel=0.01)
    assert one.train_tokens + one.held_out_tokens == 20_000
    (tmp_path / "a.txt").write_text("another text " * 2_000)
    text._opened.cache_clear()
    assert text.describe(text.Options(f"text:{tmp_path}")).fingerprint != folder.fingerprint


def test_the_place_of_a_text_is_no_part_of_its_identity(tmp_path, monkeypatch):
    (tmp_path / "t.txt").write_text("some text " * 5_000)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "u.txt").write_text("some text " * 5_000)
    monkeypatch.chdir(tmp_path)
    sources = ["text:t.txt", "text:./t.txt", f"text:{tmp_path / 't.txt'}", "text:copy/u.txt"]
    abouts = {text.describe(text.Options(source)).fingerprint for source in sources}
    assert len(abouts) == 1
    identities = [canonical(text.Options(source)) for source in sources]
    assert all(identity == identities[0] for identity in identities)
    assert canonical(text.Options("stdlib")) == {"source": "stdlib", "unique_tokens": None}
    assert canonical(text.Options("stdlib")) != identities[0]
    assert canonical(text.Options("text:t.txt", unique_tokens=5)) != identities[0]


@pytest.mark.parametrize("content", [b"", b"x"])
def test_text_that_is_missing_or_too_short_is_a_clear_error(tmp_path, content):
    with pytest.raises(UsageError, match="no text at"):
        text.describe(text.Options(f"text:{tmp_path / 'nothing'}"))
    (tmp_path / "short.txt").write_bytes(content)
    with pytest.raises(UsageError, match="too short"):
        text.describe(text.Options(f"text:{tmp_path / 'short.txt'}"))


def test_the_language_is_the_same_on_every_machine():
    about = markov.describe(markov.Options())
    assert about.fingerprint == "sha256:40b7a0501bb6ed699b477ad9e5fba5dd2322bb1ef8a037f69eeb6c837ca44348"
    data = markov.open_data(markov.Options(length=20_000))
    assert data.train[0, :12].tolist() == [31, 10, 7, 30, 7, 25, 20, 3, 31, 4, 16, 1]
    assert markov.entropy_rate(32, 0) == pytest.approx(1.486860, abs=1e-6)


def test_the_ideal_predictor_reaches_the_floor_of_the_language():
    options, context = markov.Options(length=2_000_000), 64
    p = markov.transitions(32, 0) / markov.SCALE
    assert (markov.transitions(32, 0).sum(axis=2) == markov.SCALE).all()
    rows = markov.open_data(options).train[:, : 1 + 60 * context]
    pairs = markov._stationary(32, 0)
    first = (pairs[:, :, None] * p).sum(axis=0)
    first /= first.sum(axis=1, keepdims=True)
    loss = -np.log(p[rows[:, :-2], rows[:, 1:-1], rows[:, 2:]])
    begins = np.arange(0, rows.shape[1] - context, context)
    blind = -np.log(first[rows[:, begins], rows[:, begins + 1]])
    two_known = np.delete(loss, begins[1:] - 1, axis=1)  # a window's first target sees one symbol only
    measured = (two_known.mean() * (context - 1) + blind.mean()) / context
    error = loss.std() / math.sqrt(loss.size)
    assert abs(measured - markov.floor(options, context)) < 5 * error


def test_fewer_tokens_of_the_language_are_a_prefix_and_held_out_chains_are_others():
    small, large = (markov.open_data(markov.Options(length=length)) for length in (50_000, 200_000))
    assert np.array_equal(small.train, large.train[: len(small.train)])
    assert np.array_equal(small.held, large.held)
    assert not (large.train[:, :64] == large.held[0, :64]).all(axis=1).any()
