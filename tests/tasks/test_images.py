"""Images with a class: right, apart, and the same everywhere."""

import numpy as np
import pytest

from scalectl.core.errors import DataError
from scalectl.tasks import TASKS, digits, two_patches

TASKS_OF_IMAGES = [task for task in TASKS.values() if task.kind == "images"]
SMALL = {"digits": digits.Options(images=200), "two-patches": two_patches.Options(images=300)}
PINNED_PIXELS = [1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0]
PINNED = "sha256:047eefcc35ce8f4b4fdc382e4f519fdabd31423ee672244c7d99d240def380da"
TOKENS = 17  # of an image, whatever model reads it


@pytest.fixture(params=TASKS_OF_IMAGES, ids=lambda task: task.name)
def task(request):
    if request.param.name == "digits":
        pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return request.param


def test_a_batch_depends_on_seed_and_step_alone_and_not_on_the_tokens_of_an_image(task):
    data, again = (task.open_data(SMALL[task.name]) for _ in range(2))
    batch = data.batch(3, 17, 8, TOKENS)
    assert batch.shape == (8, data.width(TOKENS)) == (8, 65)
    assert batch.dtype == np.int64
    assert np.array_equal(batch, again.batch(3, 17, 8, 65))
    assert not np.array_equal(batch, data.batch(4, 17, 8, TOKENS))
    assert not np.array_equal(batch, data.batch(3, 18, 8, TOKENS))
    joint = data.batches([3, 4], [17, 5], 8, TOKENS)
    assert np.array_equal(joint, [batch, data.batch(4, 5, 8, TOKENS)])
    assert task.accepts(SMALL[task.name].source)


def test_the_description_is_that_of_the_images(task):
    options = SMALL[task.name]
    about, data = task.describe(options), task.open_data(options)
    assert about.tokens(TOKENS) == (len(data.train) * TOKENS, len(data.held) * TOKENS)
    assert about.reachable(TOKENS) == options.images * TOKENS
    assert about.given == {"image": 8, "channels": 1, "levels": about.image.levels, "classes": about.vocab}
    for part in (data.train, data.held):
        assert 0 <= part[:, :-1].min() <= part[:, :-1].max() == about.image.levels
        assert set(part[:, -1]) == set(range(about.vocab))
    held = data.held_out(100 * TOKENS + 3, TOKENS)
    assert held.shape == (100, 65)
    assert np.array_equal(data.held_out(10**9, TOKENS), data.held)
    assert about.chance == np.bincount(data.held[:, -1]).max() / len(data.held)
    assert task.problems(options) == []


def test_an_epoch_shows_every_image_once(task):
    data = task.open_data(SMALL[task.name])
    count = len(data.train)
    first = data.batch(0, 0, count, TOKENS)
    assert sorted(row.tobytes() for row in first) == sorted(row.tobytes() for row in data.train.astype(np.int64))
    assert not np.array_equal(first, data.batch(0, 1, count, TOKENS))


def test_fewer_images_are_a_prefix_and_none_is_on_both_sides(task):
    few = task.open_data(SMALL[task.name])
    many = task.open_data(type(SMALL[task.name])())
    assert np.array_equal(few.train, many.train[: len(few.train)])
    assert np.array_equal(few.held, many.held)
    train, held = ({row.tobytes() for row in part} for part in (many.train, many.held))
    assert not train & held
    assert task.describe(SMALL[task.name]).fingerprint != task.describe(type(SMALL[task.name])()).fingerprint


def test_the_digits_are_those_of_scikit_learn_and_any_number_of_them_is_balanced():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    theirs = load_digits()
    data = digits.open_data(digits.Options())
    ours = np.concatenate([data.train, data.held]).astype(np.int64)
    expected = np.column_stack([theirs.data, theirs.target]).astype(np.int64)
    assert np.array_equal(ours[np.lexsort(ours.T)], expected[np.lexsort(expected.T)])
    assert len(data.held) == digits.HELD_OUT
    for count in (40, 200, 1_200):
        classes = np.bincount(data.train[:count, -1])
        assert classes.max() - classes.min() <= 1


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    digits._split.cache_clear()
    with pytest.raises(DataError) as raised:
        digits.describe(digits.Options())
    assert len(str(raised.value).splitlines()) == 3
    assert "scalectl[images]" in raised.value.remedy
    digits._split.cache_clear()


@pytest.mark.parametrize("options", [{}, {"side": 6, "corner": 1}, {"side": 10, "corner": 5, "levels": 3}], ids=str)
def test_corners_match_where_the_class_says_so(options):
    o = two_patches.Options(images=4_000, **options)
    rows = two_patches.open_data(o).train
    image = rows[:, :-1].reshape(-1, o.side, o.side)
    first, last = image[:, : o.corner, : o.corner], image[:, -o.corner :, -o.corner :]
    assert np.array_equal((first == last).all(axis=(1, 2)), rows[:, -1] == 1)
    assert abs(rows[:, -1].mean() - 0.5) < 5 * 0.5 / len(rows) ** 0.5
    levels = np.bincount(rows[:, :-1].ravel()) / rows[:, :-1].size
    assert levels == pytest.approx(1 / (o.levels + 1), abs=0.01)


def test_two_patches_are_the_same_on_every_machine():
    data = two_patches.open_data(two_patches.Options(images=50))
    assert data.train[0, :12].tolist() == PINNED_PIXELS
    assert two_patches.describe(two_patches.Options(images=50)).fingerprint == PINNED


def test_bad_options_name_the_key():
    bad = TASKS["two-patches"].problems
    assert bad(two_patches.Options(side=1)) == [("side", "1 is not a side from 2 to 64")]
    assert bad(two_patches.Options(corner=5)) == [("corner", "5 is not a side from 1 to 4, half of the image's")]
    assert bad(two_patches.Options(levels=256)) == [("levels", "256 is not a number from 1 to 255")]
