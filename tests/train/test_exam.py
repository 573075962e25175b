"""Problems with answers: what is measured of them, and that it depends on nobody's company."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from support import pairwise
from timeless import by_run

from scalectl.core.job import Job, Placement, State
from scalectl.core.rows import METRICS, Row
from scalectl.core.run import Evaluation, Member, RunConfig, Task
from scalectl.models.decoder import forward
from scalectl.models.decoder.spec import Options as DecoderOptions
from scalectl.models.encoder_decoder.spec import Options as EncoderDecoderOptions
from scalectl.optim import AdamWOptions
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.tasks import TASKS, arithmetic, reverse
from scalectl.train import graph
from scalectl.train.exam import Exam
from scalectl.train.loop import Ended, Trainer, train


def run_of(seed=0, steps=12, sequences=32, precision="fp32", d_model=16, problems=None, lr=3e-3, **data):
    options = arithmetic.Options(problems=problems, **data)
    about = TASKS["arithmetic"].describe(options)
    model = DecoderOptions(d_model, 2, 4, about.context, about.vocab, answers=about.answers)
    return RunConfig(
        model=Member("decoder", 1, model),
        task=Task("arithmetic", 1, options, about.fingerprint, 100 * about.context),
        optim=Member("adamw", 1, AdamWOptions(lr)),
        schedule=Member("wsd", 1, ScheduleOptions(warmup=3, decay=4)),
        steps=steps,
        sequences=sequences,
        seed=seed,
        precision=precision,
        evaluation=Evaluation(5),
    )


def last(run, placement=None):
    """The numbers of a run's last evaluation, and how it ended."""
    events = list(train(Job((run,), placement or Placement())))
    rows = {f"{row.split}/{row.metric}": row.value for row in events if isinstance(row, Row)}
    return rows, events[-1]


@pytest.mark.parametrize(
    ("answer", "precision", "sequences"), pairwise(["plain", "scratchpad"], ["fp32", "bf16"], [32, 5])
)
def test_a_pack_that_answers_equals_its_solos_bit_for_bit(answer, precision, sequences):
    runs = [
        run_of(seed, precision=precision, answer=answer, sequences=sequences, lr=1e-3 * (1 + seed)) for seed in range(4)
    ]
    packed = by_run(train(Job(tuple(runs), Placement())))
    for run in runs:
        assert packed[run.run_id] == by_run(train(Job((run,), Placement())))[run.run_id]


@pytest.mark.parametrize("answer", ["plain", "scratchpad"])
def test_a_recorded_pack_answers_as_the_plain_one(answer, monkeypatch):
    runs = tuple(run_of(seed, steps=10 + 5 * seed, answer=answer) for seed in range(3))
    found = []
    for engine in (graph.Engine, graph.GraphEngine):
        monkeypatch.setattr("scalectl.train.loop.open_engine", engine)
        found.append([row for row in train(Job(runs, Placement())) if isinstance(row, Row)])
    assert [row[:6] for row in found[0]] == [row[:6] for row in found[1]]
    # AdamW rounds otherwise there, and a score of 100 problems goes in steps of .01
    assert [row.value for row in found[1]] == pytest.approx([row.value for row in found[0]], rel=1e-4, abs=0.021)


def test_scores_are_those_of_the_model_judged_by_hand():
    run = run_of(steps=30, operation="add", digits=1)
    trainer = Trainer(Job((run,), Placement()))
    while trainer.running:
        events = trainer.step()
    rows = {row.metric: row.value for row in events if isinstance(row, Row) and row.split == "held-out"}
    assert rows["items"] == len(trainer.exam.tokens_BW)
    assert rows["chance"] == 0.1
    assert rows["answer_logprob"] == pytest.approx(-2 * rows["loss"])
    assert rows["position_accuracy"] == pytest.approx((rows["position_accuracy_01"] + rows["position_accuracy_02"]) / 2)
    assert rows["exact_match"] <= min(rows["position_accuracy_01"], rows["position_accuracy_02"])
    assert set(rows) <= {column.name for column in METRICS} | {f"position_accuracy_{i:02d}" for i in (1, 2)}


def test_every_evaluation_judges_with_the_parameters_of_its_step():
    run = run_of(steps=10, answer="scratchpad", digits=1)
    trainer = Trainer(Job((run,), Placement()))
    exam, o = trainer.exam, run.model.options
    views = trainer.engine.layout.views(trainer.engine.row(0).theta[None])
    losses, right = forward.judge(views, exam.tokens_BW[None], o)
    written = forward.generate(views, exam.prompts_BT[None], o.answers, o)[0]
    found = {measured.metric: measured.value for measured in trainer._evaluate([0])[0]}
    right_BA = right.view(-1, o.answers).numpy()
    assert found["loss"] == pytest.approx(losses.mean().item(), rel=1e-6)
    assert found["exact_match"] == right_BA.all(1).mean()
    assert found["position_accuracy_02"] == right_BA[:, 1].mean()
    final = (written[:, -2:] == exam.tokens_BW[:, -2:]).all(1).double().mean().item()
    assert found["generated_match"] == final
    assert found["generated_chance"] == 0.1
    assert found["chance"] == 0.1  # of all scratchpads those of the most frequent sum are one


def test_a_final_answer_counts_whatever_the_scratchpad_said():
    tokens = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]])
    exam = Exam(tokens, None, 3, 1, None, 0.5, (), 0, None)
    judged = np.array([[0.1, 1, 0, 1], [0.3, 1, 1, 1]])
    found = {m.metric: m.value for m in exam.measure(judged, np.array([[3, 9, 5], [3, 4, 6]]))}
    assert found["exact_match"] == 0.5
    assert found["generated_match"] == 0.5
    assert found["position_accuracy"] == pytest.approx(5 / 6)
    assert found["answer_logprob"] == pytest.approx(-0.6)
    assert exam.prompts_BT.tolist() == [[1, 2], [1, 2]]


def test_subtasks_are_weighted_as_in_training_and_stand_alone_beside():
    tokens = torch.zeros(5, 3, dtype=torch.int64)
    exam = Exam(tokens, None, 1, 0, 0.5, None, (0.75, 0.25), 2, np.array([0, 0, 1, 1, 1]))
    judged = np.array([[1.0, 1], [3.0, 0], [4.0, 0], [5.0, 0], [6.0, 1]])
    found = {f"{m.split}/{m.metric}": m.value for m in exam.measure(judged, None)}
    assert found["held-out/loss"] == 0.75 * 2 + 0.25 * 5
    assert found["held-out/loss_se"] == pytest.approx(math.hypot(0.75 * 1, 0.25 * 1 / math.sqrt(3)))
    assert found["held-out/exact_match"] == pytest.approx(0.75 / 2 + 0.25 / 3)
    assert found["subtask01/loss"] == 2
    assert found["subtask02/exact_match"] == pytest.approx(1 / 3)
    assert (found["held-out/items"], found["subtask01/items"], found["subtask02/items"]) == (5, 2, 3)
    assert found["subtask02/chance"] == 0.5
    first = dataclasses.replace(exam, alone=1).measure(judged, None)
    assert [m for m in exam.measure(judged, None) if m.split != "subtask02"] == first


def test_problems_learnt_by_heart_are_no_divergence():
    run = run_of(steps=200, problems=20, sequences=16, lr=1e-2, digits=2, operation="mul")
    run = dataclasses.replace(run, evaluation=Evaluation(200))
    rows, end = last(run)
    assert isinstance(end, Ended)
    assert rows["held-out/loss"] > math.log(12) + 0.5
    assert rows["train/loss"] < 2
    assert end.state is State.DONE


def test_an_encoder_decoder_learns_to_reverse_sequences():
    data = reverse.Options(symbols=7, places=4)
    about = TASKS["reverse"].describe(data)
    run = dataclasses.replace(
        run_of(steps=150, sequences=64, lr=5e-3),
        schedule=Member("wsd", 1, ScheduleOptions(warmup=20, decay=50)),
        model=Member("encoder-decoder", 1, EncoderDecoderOptions(32, 1, 4, **about.given)),
        task=Task("reverse", 1, data, about.fingerprint, 200 * about.context),
        evaluation=Evaluation(150),
    )
    measured, _ = last(run)
    assert measured["held-out/exact_match"] > 0.9 > 100 * measured["held-out/chance"]
