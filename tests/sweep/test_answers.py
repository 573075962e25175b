"""Sweeps whose data are problems: what the data set, what is refused, and what a pack may hold."""

import pytest

from scalectl.core.errors import SweepFileError
from scalectl.sweep.pack import packable
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import parse_sweep


def text(model='family = "decoder"\nd_model = 16\nn_layer = 1\nn_head = 2', data="", batch="32 * context"):
    return f"""\
name = "tiny"
[model]
{model}
[data]
source = "arithmetic"
{data}
[train]
steps = 10
batch_tokens = {{ rule = "{batch}" }}
lr = 0.01
"""


def problem(sweep, **options):
    with pytest.raises(SweepFileError) as caught:
        parse_sweep(sweep, **options)
    (found,) = caught.value.problems
    return found.what, found.remedy


def test_the_data_set_context_and_answers_of_each_cell():
    plan = expand(parse_sweep(text(data="digits = { grid = [1, 2] }\noperation = { grid = ['add', 'mul'] }")))
    held = [(p.run.context, p.run.answers, p.run.sequences) for p in plan.runs]
    assert held == [(5, 2, 32), (5, 2, 32), (8, 3, 32), (9, 4, 32)]
    assert not any("eval.tokens" in note for note in plan.notes)


def test_plain_text_has_no_answers_in_its_identity():
    plain = text().replace('"arithmetic"', '"markov"').replace("n_head = 2", "n_head = 2\ncontext = 16")
    (run,) = (planned.run for planned in expand(parse_sweep(plain)).runs)
    assert run.answers == 0
    assert run.run_id == "c3025fc8b1ebb732"  # as before there were any answers


def test_flops_and_tokens_count_prompts_and_the_head_on_answers_alone():
    (planned,) = expand(parse_sweep(text())).runs
    matrices, head, attention = 12 * 16 * 16, 12 * 16, 2 * 2 * 8 * 16
    assert planned.tokens == 10 * 32 * 8
    assert planned.flops == pytest.approx(planned.tokens * 3 * (2 * matrices + 2 * head * 3 / 8 + attention))


def test_what_the_data_set_is_not_the_files_to_give():
    assert problem(text(model='family = "decoder"\nd_model = 16\nn_layer = 1\nn_head = 2\ncontext = 8')) == (
        "[model] context is not a known key",
        "the data set it",
    )
    assert problem(text(), overrides=("model.answers=2",))[0].startswith("--set: model.answers is not known")


def test_bad_problems_and_models_that_cannot_answer_are_refused():
    assert problem(text(data="digits = 12"))[0] == (
        "data.digits: 12 is not a number of digits from 1 to 9, the most in base 10"
    )
    mlp = 'family = "mlp"\nwidth = 16'
    assert problem(text(model=mlp))[0] == "data.source: an MLP answers with one token, and the task asks for 3"


def test_packs_need_whole_vectors_of_answers_too():
    (whole,) = expand(parse_sweep(text())).runs
    (ragged,) = expand(parse_sweep(text(batch="4 * context"))).runs
    assert packable(whole)
    assert ragged.run.batch_tokens % 32 == 0
    assert not packable(ragged)
