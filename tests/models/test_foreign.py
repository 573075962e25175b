"""Somebody's own torch module: what is found out about it, what is refused, and that its training is torch's."""

import dataclasses
import json
import math
import shutil
import sys

import pytest
import torch
import torch.nn.functional as F
from support import REPOSITORY
from torch.utils.flop_counter import FlopCounterMode

from scalectl.core.errors import SweepFileError, UsageError
from scalectl.core.job import Job, Placement
from scalectl.core.rows import Row
from scalectl.core.run import Evaluation, Foreign, Member, RunConfig, Task, flat, free_options, record, restore
from scalectl.models import ledger_of
from scalectl.models.decoder import spec as decoder
from scalectl.models.foreign import examine
from scalectl.models.foreign.spec import Examiner, fingerprint
from scalectl.optim import AdamWOptions
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.sweep.pack import pack
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import parse_sweep
from scalectl.tasks import TASKS, markov
from scalectl.train.loop import Trainer, train

FOLDERS = (str(REPOSITORY / "tests"),)
MODELS = {
    "GatedConvolution": {"width": 12, "depth": 2, "kernel": 3, "gate": "tanh"},
    "Recurrent": {"width": 10, "cell": "gru"},
    "Transformer": {"width": 16, "heads": 2, "depth": 2, "dropout": 0.0},
}
VOCAB, CONTEXT = 32, 24


def measured(name, vocab=VOCAB, context=CONTEXT, **options):
    name = f"own_models:{name}"
    return examine.measure(name, examine.load(name, FOLDERS), {"vocab": vocab, "context": context, **options})


def make_run(name, seed=0, steps=6, precision="fp32", sequences=4, **changed):
    options = {**MODELS[name], **changed, "vocab": VOCAB, "context": CONTEXT}
    kind = free_options({key: (type(held), dataclasses.MISSING) for key, held in options.items()})
    ledger = measured(name, **MODELS[name] | changed)
    about = TASKS["markov"].describe(markov.Options(length=100_000))
    assert about.vocab == VOCAB
    full = f"own_models:{name}"
    return RunConfig(
        model=Foreign(full, 1, kind(**options), fingerprint(full, FOLDERS), ledger),
        task=Task("markov", 1, markov.Options(length=100_000), about.fingerprint, 480),
        optim=Member("adamw", 1, AdamWOptions(0.01)),
        schedule=Member("constant", 1, ScheduleOptions(warmup=0, decay=0)),
        steps=steps,
        sequences=sequences,
        seed=seed,
        precision=precision,
        evaluation=Evaluation(2),
    )


def values(job, begin=None):
    return [(row.step, row.split, row.metric, row.value) for row in train(job, begin) if isinstance(row, Row)]


def placement(**more):
    return Placement(search=FOLDERS, **more)


def test_parameters_are_counted_by_their_use():
    w, k = 12, 3
    ledger = measured("GatedConvolution", **MODELS["GatedConvolution"])
    kernels, vectors = 2 * 2 * w * w * k, 2 * 2 * w + 3 * 2 * w
    assert ledger.params("total") == VOCAB * w + kernels + vectors  # the tied table once
    assert ledger.params("non_embedding") == kernels + vectors
    assert ledger.params("matmul") == kernels + VOCAB * w
    w = 10
    ledger = measured("Recurrent", **MODELS["Recurrent"])
    assert ledger.params("total") == VOCAB * w + 6 * w * w + 6 * w + VOCAB * w + VOCAB
    assert ledger.params("non_embedding") == 6 * w * w + 6 * w + VOCAB  # neither the table nor the untied head
    assert ledger.params("matmul") == 6 * w * w + VOCAB * w
    assert {t.name for t in ledger.tensors if t.embedding} == {"embed.weight", "head.weight"}
    assert all(t.decay == (len(t.shape) > 1) for t in ledger.tensors)


def test_a_transformer_of_torch_costs_what_the_decoder_of_the_same_shape_costs():
    ours = decoder.ledger(decoder.Options(16, 2, 2, CONTEXT, VOCAB))
    theirs = measured("Transformer", **MODELS["Transformer"])
    assert theirs.flops_per_token() == ours.flops_per_token()
    assert theirs.params("matmul") == ours.params("matmul")
    assert theirs.params("total") == ours.params("total") - 2 * 16  # it has no last norm
    assert theirs.params("non_embedding") == ours.params("non_embedding") - 2 * 16


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_flops_are_those_of_a_real_step_with_its_kernels_in_the_open(cell):
    module = examine.load("own_models:Recurrent", FOLDERS)(VOCAB, 10, cell)
    tokens = torch.zeros(2, CONTEXT, dtype=torch.int64)
    with examine._open_kernels(), FlopCounterMode(display=False) as counter:
        F.cross_entropy(module(tokens).flatten(0, 1), tokens.flatten()).backward()
    ledger = measured("Recurrent", width=10, cell=cell)
    assert ledger.flops_per_token() == round(counter.get_total_flops() / tokens.numel())
    gates = 3 if cell == "gru" else 4
    assert ledger.flops_per_token() == pytest.approx(6 * (2 * gates * 100 + VOCAB * 10), rel=0.02)


def test_memory_grows_with_what_the_backward_pass_keeps():
    small, large = (measured("GatedConvolution", width=w, depth=d) for w, d in ((8, 1), (8, 4)))
    assert 3 * 3 * 8 < (large.saved_activations - small.saved_activations) < 3 * 20 * 8


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "cannot be built: ValueError: width has to be odd"),
        ("shape", "returns shape (2, 24, 33), not (batch, context, vocab) = (2, 24, 32)"),
        ("tuple", "forward returns a tuple, not the logits alone"),
        ("idle", "the loss does not depend on parameter extra.weight"),
        ("dropout", "draws random numbers in forward"),
        ("running", "changes its buffer norm.num_batches_tracked"),
        ("batch", "must be causal, and its sequences independent"),
        ("future", "must be causal, and its sequences independent"),
        ("infinite", "logits at initialisation are not finite"),
        ("numpy", "shift differs between two constructions under one seed"),
        ("complex", "parameter shift is torch.complex64"),
    ],
)
def test_a_model_that_breaks_the_contract_is_refused_with_the_reason(fault, said):
    with pytest.raises(UsageError, match=r"^Broken\(fault=") as error:
        measured("Broken", fault=fault)
    assert said in error.value.what


def test_a_model_that_reads_numbers_while_it_is_built_is_counted_all_the_same():
    assert measured("Broken", fault="slow").tensors == measured("Broken", fault="").tensors


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_models:Missing", "own_models has no class or function Missing"),
        ("own_models:NOT_CALLABLE", "own_models has no class or function NOT_CALLABLE"),
        ("no_such_package.module:M", "there is no module no_such_package.module in"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name, said):
    with pytest.raises(UsageError) as error:
        examine.load(name, FOLDERS)
    assert said in error.value.what


@pytest.mark.parametrize(
    ("source", "said"),
    [("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"), ("raise SystemExit(3)", "3")],
)
def test_a_module_that_cannot_be_imported_says_why(tmp_path, source, said):
    (tmp_path / "breaks_on_import.py").write_text(source)
    with pytest.raises(UsageError, match="importing breaks_on_import fails") as error:
        examine.load("breaks_on_import:M", [str(tmp_path)])
    assert said in error.value.what
    sys.path.remove(str(tmp_path))


def test_arguments_become_keys_with_their_types_and_defaults():
    load = examine.load
    assert examine.arguments("m", load("own_models:GatedConvolution", FOLDERS)) == [
        ("width", "int", None),
        ("depth", "int", [2]),
        ("kernel", "int", [3]),
        ("gate", ["glu", "tanh"], ["glu"]),
    ]
    assert ("device", "str?", [None]) in examine.arguments("m", load("own_models:Recurrent", FOLDERS))
    with pytest.raises(UsageError, match="the argument width of m cannot be given"):
        examine.arguments("m", load("own_models:without_type", FOLDERS))
    with pytest.raises(UsageError, match="is a int, not a torch"):
        measured("no_module")


@pytest.mark.parametrize("name", MODELS)
def test_training_is_that_of_a_plain_torch_loop(name):
    """The same module, batches and AdamW written with torch alone, in float64."""
    run = make_run(name, precision="fp64")
    o = run.optim.options
    found = [row for row in values(Job((run,), placement())) if row[1] == "held-out" and row[2] == "loss"]
    module = examine.built(examine.load(run.model.name, FOLDERS), vars(run.model.options), run.seed).double()
    matrices, vectors = ([p for p in module.parameters() if (p.dim() > 1) is deep] for deep in (True, False))
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)
    data = TASKS["markov"].open_data(run.task.options)
    held = torch.from_numpy(data.held_out(run.task.held_out_tokens, CONTEXT))

    def loss(tokens):
        return F.cross_entropy(module(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    expected = []
    for step in range(run.steps):
        optimizer.zero_grad()
        loss(torch.from_numpy(data.batch(run.seed, step, run.sequences, CONTEXT))).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), o.clip)
        optimizer.step()
        if (step + 1) % 2 == 0:
            expected.append(loss(held).item())
    assert [row[3] for row in found] == pytest.approx(expected, rel=1e-9)
    assert expected[-1] < expected[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_run_equals_an_uninterrupted_one_and_no_generator_is_touched(name, precision):
    run = make_run(name, precision=precision)
    job = Job((run,), placement())
    before = torch.get_rng_state()
    whole = values(job)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(math.isfinite(row[3]) for row in whole)
    first = Trainer(job)
    head = [e for _ in range(3) for e in first.step()]
    begin = {run.run_id: first.progress(run.run_id)}
    assert [(e.step, e.split, e.metric, e.value) for e in head if isinstance(e, Row)] + values(job, begin) == whole


def test_a_seed_settles_the_start_and_micro_batches_change_nothing_but_rounding():
    one, other = make_run("Recurrent"), make_run("Recurrent", seed=1)
    whole, parts = values(Job((one,), placement())), values(Job((one,), placement(micro_batch=3)))
    assert values(Job((one,), placement())) == whole
    assert [row[3] for row in parts] == pytest.approx([row[3] for row in whole], rel=1e-5)
    assert values(Job((other,), placement()))[0] != whole[0]


def test_the_fingerprint_follows_the_source_and_what_it_imports_and_nothing_else(tmp_path):
    folder = tmp_path / "here"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine/__init__.py").write_text("")
    (folder / "mine/model.py").write_text("import torch\nfrom .parts import layer\nimport beside\nM = layer\n")
    (folder / "mine/parts.py").write_text("def layer(): ...\n")
    (folder / "mine/unused.py").write_text("x = 1\n")
    (folder / "beside.py").write_text("y = 1\n")

    def digest(place=folder):
        return fingerprint("mine.model:M", [str(place)])

    first = digest()
    assert digest(shutil.copytree(folder, tmp_path / "there")) == first
    (folder / "mine/unused.py").write_text("x = 2\n")
    assert digest() == first
    seen = {first}
    for name in ("beside.py", "mine/parts.py", "mine/model.py", "mine/__init__.py"):
        (folder / name).write_text((folder / name).read_text() + "# edited\n")
        seen.add(digest())
    assert len(seen) == 5
    (folder / "mine/parts.py").write_text("from . import unused\n")
    (folder / "mine/unused.py").write_text("print 'of another Python, and never imported'\n")
    assert digest() not in seen


def test_a_changed_source_is_refused_rather_than_trained(tmp_path):
    run = make_run("Recurrent")
    changed = dataclasses.replace(run, model=dataclasses.replace(run.model, fingerprint="sha256:other"))
    assert changed.run_id != run.run_id
    with pytest.raises(ValueError, match="the source of own_models:Recurrent changed since the plan"):
        Trainer(Job((changed,), placement()))


def test_a_record_says_all_that_reading_needs():
    run = make_run("GatedConvolution")
    text = json.dumps(record(run), sort_keys=True)
    read = restore(json.loads(text), {"model": {}, **{part: {m.name: type(m.options)} for part, m in
                   (("task", run.task), ("optim", run.optim), ("schedule", run.schedule))}})  # fmt: skip
    assert read == run
    assert hash(read) == hash(run)
    assert read.run_id == run.run_id
    assert ledger_of(read.model) == ledger_of(run.model)
    columns = flat(read)
    assert columns["model.family"] == "own_models:GatedConvolution"
    assert columns["model.width"] == 12
    assert columns["model.fingerprint"] == run.model.fingerprint
    cheaper = dataclasses.replace(run.model, ledger=dataclasses.replace(run.model.ledger, counted_flops=1))
    assert dataclasses.replace(run, model=cheaper).run_id == run.run_id


SWEEP = """\
name = "own"
[model]
family = "own_models:GatedConvolution"
width = {width}
context = 16
{more}
[data]
source = "markov"
length = 100000
[train]
steps = 30
batch_tokens = 64
lr = {{ rule = "0.08 / width" }}
seed = {{ grid = [0, 1] }}
"""


def parsed(tmp_path, width="8", more="", **given):
    shutil.copy(REPOSITORY / "tests/own_models.py", tmp_path)
    return parse_sweep(SWEEP.format(width=width, more=more), path=str(tmp_path / "own.toml"), **given)


def test_a_sweep_of_ones_own_models_is_planned_like_any_other_and_never_packed(tmp_path):
    sweep = parsed(tmp_path, "{ grid = [8, 64] }", 'gate = "tanh"', overrides=["depth=3"])
    plan = expand(sweep)
    assert plan.axes == ("model.width", "train.seed")
    assert [p.run.model.options.depth for p in plan.runs] == [3] * 4
    assert plan.runs[0].n["non_embedding"] == 3 * (2 * 8 * 8 * 3 + 2 * 8) + 4 * 2 * 8
    assert plan.runs[2].run.optim.options.lr == 0.08 / 64
    assert [len(job.runs) for job in pack(plan.runs)] == [1] * 4
    assert sweep.search[0] == str(tmp_path)


def test_mistakes_in_its_keys_are_found_like_those_of_any_other(tmp_path):
    more = 'kernle = 3\nvocab = 7\ngate = "relu"\ndepth = { grid = [1, 2.5] }'
    with pytest.raises(SweepFileError) as error:
        parsed(tmp_path, '"wide"', more, overrides=["lr=mup:0.01"])
    assert [(problem.line, problem.what, problem.remedy) for problem in error.value.problems] == [
        (None, "train.lr: muP is not defined for family own_models:GatedConvolution", "give a plain rate"),
        (4, 'model.width: "wide" is not an integer', None),
        (6, "[model] kernle is not a known key", "did you mean kernel?"),
        (7, "[model] vocab is not a known key", "the data set it"),
        (8, 'model.gate: "relu" is not one of glu, tanh', "known: glu, tanh"),
        (9, "model.depth[1]: 2.5 is not an integer", None),
    ]


@pytest.mark.parametrize(
    ("override", "what", "remedy"),
    [
        ("model.widht=9", "--set: model.widht is not known here", "did you mean model.width?"),
        ("model.foo=9", "--set: model.foo is not known here", "known: context, depth, family, gate, kernel, width"),
        ("d_model=9", "[model] d_model is not a known key", "known: context, depth, family, gate, kernel, width"),
    ],
)
def test_an_override_is_held_against_the_keys_of_its_own_model(tmp_path, override, what, remedy):
    with pytest.raises(SweepFileError) as error:
        parsed(tmp_path, overrides=[override])
    assert [(problem.what, problem.remedy) for problem in error.value.problems] == [(what, remedy)]


def test_an_override_may_name_another_family_and_set_its_keys(tmp_path):
    sweep = parsed(tmp_path, overrides=["model.family=own_models:Recurrent", "model.cell=lstm"])
    assert {(cell.run.model.name, cell.run.model.options.cell) for cell in sweep.cells} == {
        ("own_models:Recurrent", "lstm")
    }


def test_a_model_that_fails_at_every_width_is_reported_once(tmp_path):
    with pytest.raises(SweepFileError) as error:
        parsed(tmp_path, "{ grid = [4, 6, 8] }", "depth = 1", overrides=["kernel=0"])
    (problem,) = error.value.problems
    assert problem.what.startswith("model.family: GatedConvolution(width=4,")
    assert problem.what.endswith("; 2 other models of the grid fail too")


def test_an_optimiser_that_depends_on_fan_in_is_refused(tmp_path):
    with pytest.raises(SweepFileError) as error:
        parsed(tmp_path, overrides=['optimizer="muon"', "adamw_lr=0.001"])
    (problem,) = error.value.problems
    assert problem.what.startswith("train.optimizer: muon needs the fan-in of matrices, and own_models:GatedConv")
    assert problem.remedy == "use adamw or sgd"


def test_a_cell_that_cannot_be_built_is_a_mistake_of_the_file(tmp_path):
    with pytest.raises(SweepFileError) as error:
        parsed(tmp_path, more="kernel = { grid = [3, 0] }")
    (problem,) = error.value.problems
    assert problem.line == 3
    assert "GatedConvolution(width=8, depth=2, kernel=0, gate=glu) fails on tokens of shape (2, 16)" in problem.what


def test_a_process_that_dies_while_it_looks_is_a_mistake_of_the_file(tmp_path):
    (tmp_path / "ends_it_all.py").write_text("import os, sys\nprint('last words', file=sys.stderr)\nos._exit(7)\n")
    examiner = Examiner([str(tmp_path)])
    with pytest.raises(UsageError, match="died: last words"):
        examiner.describe("ends_it_all:M")
    examiner.close()


def test_the_model_of_the_readme_is_one(tmp_path):
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (block,) = [part.split("```")[0] for part in text.split("```python\n") if part.startswith("# gated.py")]
    (tmp_path / "gated.py").write_text(block)
    model = examine.load("gated:Gated", [str(tmp_path)])
    sys.path.remove(str(tmp_path))
    ledger = examine.measure("gated:Gated", model, {"vocab": 256, "context": 32, "width": 8})
    assert ledger.params("matmul") == 2 * 8 * 16 * 4 + 256 * 8
    assert ledger.flops_per_token() == 6 * ledger.params("matmul")


@pytest.mark.slow
def test_token_budgets_branch_off_one_trunk_and_equal_the_planned_runs():
    long = dataclasses.replace(
        make_run("Recurrent", steps=16), schedule=Member("wsd", 1, ScheduleOptions(warmup=2, decay=4))
    )
    short = dataclasses.replace(long, steps=10)
    solos = {run.run_id: values(Job((run,), placement())) for run in (short, long)}
    trainer = Trainer(Job((short, long), placement(rows=1)))
    rows = [event for event in trainer.splits if isinstance(event, Row)]
    while trainer.running:
        assert len(trainer.engine) == 1
        rows += [event for event in trainer.step() if isinstance(event, Row)]
    own = {run_id: [(r.step, r.split, r.metric, r.value) for r in rows if r.run_id == run_id] for run_id in solos}
    assert own[long.run_id] == solos[long.run_id]
    assert own[short.run_id] == [row for row in solos[short.run_id] if row[0] > 6]  # up to there the trunk's are its
    assert [row for row in solos[short.run_id] if row[0] <= 6] == [r for r in solos[long.run_id] if r[0] <= 6]


def test_keys_of_its_own_that_are_named_like_those_of_the_decoder_mean_nothing_to_a_plan(tmp_path):
    (tmp_path / "theirs.py").write_text(
        "from torch import nn\n"
        "class Model(nn.Sequential):\n"
        "    def __init__(self, vocab: int, d_model: int, n_head: int | None = None):\n"
        "        super().__init__(nn.Embedding(vocab, d_model), nn.Linear(d_model, vocab))\n"
    )
    model = '[model]\nfamily = "theirs:Model"\ncontext = 16\nd_model = { grid = [8, 16] }\n'
    data = '[data]\nsource = "markov"\nsymbols = 8\n[train]\nbatch_tokens = 64\nlr = 0.01\nsteps = 10\n'
    plan = expand(parse_sweep(f'name = "x"\n{model}{data}', path=str(tmp_path / "x.toml")))
    assert len(plan.runs) == 2
    assert not any("width axis" in note for note in plan.notes)
