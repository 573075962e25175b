"""Problems with answers: right, apart, and the same everywhere."""

import numpy as np
import pytest

from scalectl.tasks import (
    TASKS,
    arithmetic,
    in_context,
    induction,
    modular,
    multitask_parity,
    parity,
    problems,
    reverse,
)
from scalectl.tasks.problems import HELD_OUT_SHARE, hashed

SYMBOLS = "0123456789*="
PINNED_DRAWN = ["2794*7052=09846", "8617*8913=17530"]
PINNED_ENUMERATED = ["25*19=044", "32*14=046"]
PINNED_FINGERPRINT = "sha256:513c47376db256adba7d27606263a94a5aeeddff38a46c9b2c8680e001532d62"
PINNED_PARITY = "sha256:aba29c93fb368fce147b7dd92029ad5ec73bcf03be4559872c34574e48c6e9f6"
PINNED_PARITY_ROW = "011100110101111011011111100110010"
EXAMS = [task for task in TASKS.values() if task.kind == "problems"]
SMALL = {
    "arithmetic": arithmetic.Options(problems=2_000),
    "modular": modular.Options(modulus=23),
    "parity": parity.Options(scratchpad=True, problems=2_000),
    "multitask-parity": multitask_parity.Options(subtasks=8, problems=2_000),
    "induction": induction.Options(problems=2_000),
    "in-context": in_context.Options(problems=2_000),
    "reverse": reverse.Options(problems=2_000),
}


@pytest.mark.parametrize("task", EXAMS, ids=lambda task: task.name)
def test_problems_are_windows_that_depend_on_seed_and_step_alone(task):
    options = SMALL[task.name]
    about, data, again = task.describe(options), task.open_data(options), task.open_data(options)
    batch = data.batch(3, 17, 8, about.context)
    assert batch.shape == (8, about.context + 1)
    assert np.array_equal(batch, again.batch(3, 17, 8, about.context))
    assert not np.array_equal(batch, data.batch(4, 17, 8, about.context))
    assert not np.array_equal(batch, data.batch(3, 18, 8, about.context))
    joint = data.batches([3, 4], [17, 5], 8, about.context)
    assert np.array_equal(joint, [batch, data.batch(4, 5, 8, about.context)])
    assert task.accepts(options.source)
    assert task.problems(options) == []


@pytest.mark.parametrize("task", EXAMS, ids=lambda task: task.name)
def test_the_description_is_that_of_the_problems(task):
    options = SMALL[task.name]
    about, data = task.describe(options), task.open_data(options)
    assert data.train.shape == (about.train_tokens // about.segment, about.segment)
    assert about.held_out_tokens == data.held.size
    assert about.reachable(about.context) == len(data.train) * about.context
    assert max(data.train.max(), data.held.max()) < about.vocab
    assert 0 < about.answers <= about.context
    held = data.held_out(100 * about.context, about.context)
    assert held.shape == (min(100, len(data.held)), about.segment)
    assert len(data.held_out(10**9, about.context)) == len(data.held)


@pytest.mark.parametrize("task", EXAMS, ids=lambda task: task.name)
def test_no_prompt_is_on_both_sides_and_none_has_two_answers(task):
    about, data = task.describe(SMALL[task.name]), task.open_data(SMALL[task.name])
    answers = {}
    for part in (data.train, data.held):
        for row in part:
            prompt, answer = row[: -about.answers].tobytes(), row[-about.answers :].tobytes()
            assert answers.setdefault(prompt, (answer, part is data.held)) == (answer, part is data.held)


def texts(windows):
    return ["".join(SYMBOLS[t] for t in row) for row in windows]


def arithmetic_data(**options):
    given = arithmetic.Options(**options)
    about, data = arithmetic.describe(given), arithmetic.open_data(given)
    assert about.train_tokens == data.train.size
    assert about.held_out_tokens == data.held.size
    assert about.context == data.train.shape[1] - 1
    return about, np.concatenate([data.train, data.held])


def number(digits):
    return int("".join(map(str, digits)))


@pytest.mark.parametrize("answer", ["plain", "reversed"])
@pytest.mark.parametrize("operation", ["add", "sub", "mul"])
def test_every_sum_difference_and_product_is_right(operation, answer):
    about, rows = arithmetic_data(operation=operation, answer=answer)
    assert len({row.tobytes() for row in rows}) == len(rows) == 10_000
    compute = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b}[operation]
    for row in rows[::7].tolist():
        a, sign, b, equals, result = number(row[:2]), row[2], number(row[3:5]), row[5], row[6:]
        assert (sign, equals, len(result)) == (10, 11, about.answers)
        result = result[::-1] if answer == "reversed" else result
        minus = result[0] == 10
        assert (-1 if minus else 1) * number(result[1:] if minus else result) == compute(a, b)
    blind = max(np.unique(rows[:, -about.answers :], axis=0, return_counts=True)[1]) / len(rows)
    assert about.chance == pytest.approx(blind)


@pytest.mark.parametrize("base", [3, 10])
@pytest.mark.parametrize("operation", ["add", "sub", "mul"])
def test_chance_is_how_often_the_most_frequent_scratchpad_is_right(operation, base):
    about, rows = arithmetic_data(operation=operation, answer="scratchpad", base=base)
    for length, chance in ((about.answers, about.chance), (about.final, about.generated_chance)):
        assert max(np.unique(rows[:, -length:], axis=0, return_counts=True)[1]) / len(rows) == pytest.approx(chance)


def test_scratchpads_hold_the_steps():
    rows = texts(arithmetic_data(operation="add", answer="scratchpad")[1])
    assert "27*45=2170=072" in rows
    rows = texts(arithmetic_data(operation="sub", answer="scratchpad")[1])
    assert "45*27=8110=018" in rows
    assert "27*45=2081=*18" in rows
    rows = texts(arithmetic_data(operation="mul", answer="scratchpad")[1])
    assert "27*45=135108=1215" in rows


@pytest.mark.parametrize("digits", [2, 4])
def test_no_problem_is_on_both_sides_and_fewer_are_a_prefix(digits):
    many, few = (arithmetic.open_data(arithmetic.Options(digits=digits, problems=n)) for n in (3_000, 500))
    assert np.array_equal(few.train, many.train[:500])
    assert np.array_equal(few.held, many.held)
    sides = [{row.tobytes() for row in part} for part in (many.train, many.held)]
    assert len(sides[0]) == len(many.train) == 3_000
    assert len(sides[1]) == len(many.held)
    assert not sides[0] & sides[1]
    prompts = [part[:, : 2 * digits + 2] for part in (many.train, many.held)]
    assert (hashed(prompts[0]) % HELD_OUT_SHARE != 0).all()
    assert (hashed(prompts[1]) % HELD_OUT_SHARE == 0).all()


def test_sequences_are_answered_from_their_end():
    o = reverse.Options(symbols=5, places=4)
    about, data = reverse.describe(o), reverse.open_data(o)
    rows = np.concatenate([data.train, data.held])
    assert len(rows) == 5**4 == 1 / about.chance
    assert (rows[:, 4] == 5).all()
    assert np.array_equal(rows[:, :4], rows[:, :4:-1])
    assert TASKS["reverse"].problems(reverse.Options(places=16)) == [
        ("places", "16 is not a number from 1 to 15, the most with 15 symbols")
    ]


def test_problems_are_the_same_on_every_machine():
    data = arithmetic.open_data(arithmetic.Options(digits=4, problems=1_000))
    assert texts(data.train[:2]) == PINNED_DRAWN
    assert texts(arithmetic.open_data(arithmetic.Options()).train[:2]) == PINNED_ENUMERATED
    about = arithmetic.describe(arithmetic.Options())
    assert about.fingerprint == PINNED_FINGERPRINT


def test_a_large_space_gives_half_of_itself_at_most():
    space = problems.Space("test", 3 << 20, lambda n: problems.digits(n, 256, 4), 1, 256)
    train, held = problems.counts(space, 1 << 30)
    assert (train, held) == (3 << 19, problems.MOST_HELD_OUT)
    assert problems.counts(space, None)[0] == problems.ENUMERATED


def test_each_subtask_is_the_parity_of_bits_of_its_own_and_as_frequent_as_its_share():
    o = multitask_parity.Options(subtasks=6, bits=16, k=3, problems=60_000)
    about, data = multitask_parity.describe(o), multitask_parity.open_data(o)
    assert sum(about.subtasks) == 1
    assert about.subtasks[3] / about.subtasks[0] == pytest.approx(4**-1.4, rel=1e-6)
    subtask = data.train[:, :6].argmax(axis=1)
    assert (data.train[:, :6].sum(axis=1) == 1).all()
    shares = np.bincount(subtask) / len(subtask)
    assert shares == pytest.approx(about.subtasks, abs=5 * 0.5 / 60_000**0.5)
    for k, rows in enumerate(data.train[subtask == i] for i in range(6)):
        mask = [i for i in range(16) if multitask_parity._masks(o)[k] >> np.uint64(i) & np.uint64(1)]
        assert len(mask) == 3
        assert np.array_equal(rows[:, 6:-1][:, mask].sum(axis=1) % 2, rows[:, -1])


@pytest.mark.parametrize(("subtasks", "bits", "k"), [(256, 24, 2), (120, 16, 2), (12, 12, 1), (1, 10, 10)])
def test_no_two_subtasks_look_at_the_same_bits(subtasks, bits, k):
    o = multitask_parity.Options(subtasks=subtasks, bits=bits, k=k)
    masks = multitask_parity._masks(o).tolist()
    assert len(set(masks)) == subtasks
    assert {mask.bit_count() for mask in masks} == {k}
    assert max(masks) < 1 << bits


def test_a_subtask_without_scores_of_its_own_is_another_description_of_the_same_problems():
    every, some = (multitask_parity.Options(subtasks=6, problems=500, alone=alone) for alone in (0, 2))
    assert [multitask_parity.describe(o).alone for o in (every, some)] == [6, 2]
    assert multitask_parity.describe(every).fingerprint != multitask_parity.describe(some).fingerprint
    assert np.array_equal(multitask_parity.open_data(every).train, multitask_parity.open_data(some).train)


def test_held_out_problems_of_subtasks_are_equally_many_and_not_trained_on():
    o = multitask_parity.Options(subtasks=6, bits=12, k=2, problems=60_000)
    data = multitask_parity.open_data(o)
    sides = [{row.tobytes() for row in part} for part in (data.train, data.held)]
    assert not sides[0] & sides[1]
    context = data.held.shape[1] - 1
    held, subtask = data.held_out(60 * context, context), data.subtasks(60 * context, context)
    assert np.bincount(subtask).tolist() == [10] * 6
    assert np.array_equal(held[:, :6].argmax(axis=1), subtask)
    few = multitask_parity.open_data(multitask_parity.Options(subtasks=6, bits=12, k=2, problems=500))
    assert np.array_equal(few.train, data.train[:500])


def test_multitask_parity_is_the_same_on_every_machine():
    o = multitask_parity.Options(problems=1_000)
    about, data = multitask_parity.describe(o), multitask_parity.open_data(o)
    assert about.fingerprint == PINNED_PARITY
    assert "".join(map(str, data.train[5, 64:])) == PINNED_PARITY_ROW


def rows_of(task, **options):
    about, data = task.describe(options := task.Options(**options)), task.open_data(options)
    return about, np.concatenate([data.train, data.held]).astype(int)


@pytest.mark.parametrize("operation", ["add", "sub", "mul", "div"])
def test_residues_are_right(operation):
    about, rows = rows_of(modular, operation=operation, modulus=13)
    a, sign, b, equals, c = rows.T
    assert len(np.unique(a * 13 + b)) == len(rows) == (156 if operation == "div" else 169)
    assert set(sign) | set(equals) == {13, 14}
    right = {"add": a + b - c, "sub": a - b - c, "mul": a * b - c, "div": c * b - a}[operation]
    assert not (right % 13).any()
    assert about.chance == pytest.approx(max(np.bincount(c)) / len(rows))


@pytest.mark.parametrize("bits", [8, 30])
def test_parities_run_along_the_bits(bits):
    about, rows = rows_of(parity, bits=bits, scratchpad=True, problems=500)
    assert (about.answers, about.final, about.generated_chance) == (bits, 1, 0.5)
    for i in range(1, bits + 1):
        assert np.array_equal(rows[:, :i].sum(axis=1) % 2, rows[:, bits + i])
    direct = rows_of(parity, bits=bits, problems=500)[1]
    assert np.array_equal(direct[:, :bits].sum(axis=1) % 2, direct[:, -1])


def test_a_repeated_symbol_is_followed_by_what_followed_it_before():
    about, rows = rows_of(induction, symbols=8, length=12, problems=3_000)
    for *before, repeated, answer in rows.tolist():
        assert before.count(repeated) == 1
        assert before[before.index(repeated) + 1] == answer
    assert set(rows[:, -1]) == set(range(8))
    assert max(np.bincount(rows[:, -1])) / len(rows) == pytest.approx(about.chance, abs=0.02)


def test_labels_and_lines_follow_from_the_examples():
    about, rows = rows_of(in_context, symbols=16, labels=4, shots=6, problems=2_000)
    for *pairs, item, label in rows.tolist():
        assert dict(zip(pairs[::2], pairs[1::2], strict=True))[item] == label
        assert len(set(pairs[::2])) == 6
    assert about.chance == 0.25
    about, rows = rows_of(in_context, kind="regression", symbols=11, shots=5, problems=2_000)
    for x0, y0, x1, y1, *rest, x, y in rows.tolist():
        slope = (y1 - y0) * pow(x1 - x0, -1, 11)
        assert x not in (x0, x1, *rest[::2])
        assert (y0 + slope * (x - x0) - y) % 11 == 0


def test_bad_options_name_the_key():
    for name, options, key in (
        ("modular", modular.Options(operation="div", modulus=12), "modulus"),
        ("modular", modular.Options(modulus=255), "modulus"),
        ("parity", parity.Options(bits=61), "bits"),
        ("induction", induction.Options(symbols=4, length=8), "length"),
        ("in-context", in_context.Options(shots=32), "shots"),
        ("in-context", in_context.Options(kind="regression", symbols=12), "symbols"),
        ("in-context", in_context.Options(labels=1), "labels"),
    ):
        assert [found for found, _ in TASKS[name].problems(options)] == [key]
        assert TASKS[name].problems(SMALL[name]) == []
    bad = TASKS["multitask-parity"].problems
    assert bad(multitask_parity.Options(bits=12, k=13)) == [("k", "13 is not a number from 1 to bits = 12")]
    assert [key for key, _ in bad(multitask_parity.Options(subtasks=0, bits=64))] == ["subtasks", "bits"]
    assert bad(multitask_parity.Options(subtasks=121, bits=16, k=2, alone=122)) == [
        (
            "subtasks",
            "121 subtasks have no bits of their own: 2 of 16 bits can be chosen in 120 ways; use more bits",
        ),
        ("alone", "122 is not a number from 0 to subtasks = 121"),
    ]
    bad = TASKS["arithmetic"].problems
    assert bad(arithmetic.Options(digits=10)) == [
        ("digits", "10 is not a number of digits from 1 to 9, the most in base 10")
    ]
    assert bad(arithmetic.Options(base=1))[0][0] == "base"
    assert bad(arithmetic.Options()) == []
