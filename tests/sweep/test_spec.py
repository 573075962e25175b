import textwrap
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import in_moments

from scalectl.core.errors import Problem, SweepFileError, UsageError
from scalectl.report.problems import lines
from scalectl.sweep.draft import MAX_PROBLEMS
from scalectl.sweep.overrides import recorded_overrides, with_overrides_recorded
from scalectl.sweep.slurm import Slurm
from scalectl.sweep.spec import load, parse_sweep

GOOD = """\
name = "tiny"
[model]
family = "decoder"
d_model = { grid = [8, 16] }
n_layer = 1
n_head = 2
context = 16
[data]
source = "markov"
symbols = 8
[train]
tokens = 6400
batch_tokens = 64
lr = 0.01
seed = { grid = [0, 1] }
"""


def changed(*replacements, more=""):
    text = GOOD
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text + more


def problems(text, **options):
    with pytest.raises(SweepFileError) as caught:
        parse_sweep(text, **options)
    return caught.value.problems


# what is changed in the good file; then (line, part of the sentence, part of the remedy) of every problem
MALFORMED = {
    "an unknown key": (
        changed(("n_layer", "n_layr")),
        [(2, "n_layer is missing", None), (5, "[model] n_layr is not a known key", "did you mean n_layer?")],
    ),
    "a key in the wrong table": (
        changed(more="context = 8\n"),
        [(16, "[train] context is not a known key", "it belongs into [model]")],
    ),
    "an unknown table": (
        changed(("[train]", "[trian]")),
        [
            (11, "[trian] is not a known table", "did you mean train?"),
            (None, "says not how long", "tokens"),
            (None, "lr is missing", None),
        ],
    ),
    "a key above all tables": (
        changed(('name = "tiny"', 'name = "tiny"\nlr = 3')),
        [(2, "lr is not a known key", "it belongs into [train]")],
    ),
    "no family": (changed(('family = "decoder"\n', "")), [(2, "model.family is missing", "decoder")]),
    "an unknown family": (
        changed(('"decoder"', '"decodr"')),
        [(3, 'model.family: "decodr" is not known', "did you mean decoder?")],
    ),
    "an unknown source": (
        changed(('"markov"', '"marcov"')),
        [(9, 'data.source: "marcov" is not a source', "did you mean markov?")],
    ),
    "a missing text": (
        changed(('"markov"\nsymbols = 8', '"text:/no/such/file"')),
        [(9, "data.source: no text at", "text:PATH")],
    ),
    "a word in a grid of integers": (
        changed(("[8, 16]", '[8, "wide"]')),
        [(4, 'model.d_model[1]: "wide" is not an integer', None)],
    ),
    "a fraction in a grid of integers": (
        changed(("[8, 16]", "[8, 16.5]")),
        [(4, "model.d_model[1]: 16.5 is not an integer", None)],
    ),
    "a truth value as integer": (
        changed(("n_layer = 1", "n_layer = true")),
        [(5, "model.n_layer: true is not an integer", None)],
    ),
    "not a multiple": (
        changed(("[8, 16]", "[8, 9, 16]")),
        [(4, "model.d_model[1]: 9 is not a multiple of n_head = 2; use 8 or 10", None)],
    ),
    "a zero": (changed(("n_layer = 1", "n_layer = 0")), [(5, "model.n_layer: 0 is not a positive number", None)]),
    "a negative number": (
        changed(("tokens = 6400", "tokens = -6400")),
        [(12, "train.tokens: -6400 is negative", None)],
    ),
    "nan": (changed(("lr = 0.01", "lr = nan")), [(14, "train.lr: nan is not a finite number", None)]),
    "infinity in a grid": (
        changed(("lr = 0.01", "lr = { grid = [0.01, inf] }")),
        [(14, "train.lr[1]: inf is not a finite number", None)],
    ),
    "a rate of zero": (changed(("lr = 0.01", "lr = 0")), [(14, "train.lr: 0.0 is too small", None)]),
    "beta of one": (changed(more="beta2 = 1\n"), [(16, "train.beta2: 1.0 is too large; it has to be below 1", None)]),
    "an integer beyond 64 bits": (
        changed(("[0, 1]", "[0, 99999999999999999999]")),
        [(15, "train.seed[1]: 99999999999999999999 is beyond 64 bits", None)],
    ),
    "a bare list": (
        changed(("{ grid = [8, 16] }", "[8, 16]")),
        [(4, "model.d_model: a bare list", "{ grid = [...] }")],
    ),
    "a misspelt axis": (
        changed(("grid = [8", "gird = [8")),
        [(4, "model.d_model: { gird } is not a value", "did you mean grid?")],
    ),
    "two kinds of axis": (
        changed(("grid = [8, 16]", "grid = [8], zip = [8]")),
        [(4, "model.d_model: { grid, zip } is not a value", "one of")],
    ),
    "an empty grid": (changed(("[8, 16]", "[]")), [(4, "model.d_model: an empty list", None)]),
    "a family in a grid": (changed(('"decoder"', '{ grid = ["decoder"] }')), [(3, "cannot be varied", "[[block]]")]),
    "sources of two tasks": (
        changed(('"markov"', '{ grid = ["markov", "stdlib"] }')),
        [(9, "different tasks", "[[block]]")],
    ),
    "a batch that is no multiple of the context": (
        changed(("batch_tokens = 64", "batch_tokens = 70")),
        [(13, "train.batch_tokens: 70 is not a multiple of context = 16; use 64 or 80", None)],
    ),
    "a run shorter than a batch": (
        changed(("tokens = 6400", "tokens = 63")),
        [(12, "train.tokens: 63 gives 63 tokens, less than one batch of 64", None)],
    ),
    "a warm-up that does not fit": (
        changed(more="warmup = 90\n"),
        [(16, "a warm-up of 90 and a decay of 20 steps do not fit into a run of 100", None)],
    ),
    "half a step of warm-up": (
        changed(more="warmup = 2.5\n"),
        [(16, "train.warmup: 2.5 is neither whole steps nor a share", None)],
    ),
    "two lengths": (changed(more="steps = 10\n"), [(16, "tokens, steps are given; a run has one length", "keep one")]),
    "no length": (
        changed(("tokens = 6400\nbatch", "batch")),
        [(11, "says not how long a run is", "tokens, tokens_per_param, flops, steps")],
    ),
    "an unknown name in a rule": (
        changed(("lr = 0.01", 'lr = { rule = "0.1 / d_modl" }')),
        [(14, "train.lr: d_modl is not known here", "did you mean model.d_model?")],
    ),
    "a rule that is no expression": (
        changed(("lr = 0.01", 'lr = { rule = "0.1 /" }')),
        [(14, "train.lr: the expression ends too early", None)],
    ),
    "a rule without a value": (
        changed(("lr = 0.01", 'lr = { rule = "1 / (16 - d_model)" }')),
        [(14, "train.lr: division by zero (column 3), with d_model = 16", None)],
    ),
    "a rule that gives no integer": (
        changed(("n_layer = 1", 'n_layer = { rule = "d_model / 16" }')),
        [(5, "model.n_layer: the rule gives a value that does not fit: 0.5 is not an integer", "round")],
    ),
    "rules in a circle": (
        changed(("n_layer = 1", 'n_layer = { rule = "n_head" }'), ("n_head = 2", 'n_head = { rule = "N_total" }')),
        [(5, "model.n_layer: rules in a circle", None)],
    ),
    "a length that needs itself": (
        changed(("tokens = 6400", 'tokens = { rule = "train.steps * 2" }')),
        [(12, "train.tokens: rules in a circle, train.tokens -> train.steps -> train.tokens", None)],
    ),
    "a rule for a text": (
        changed(more='precision = { rule = "1" }\n'),
        [(16, "train.precision: a rule gives numbers", None)],
    ),
    "zips of two lengths": (
        changed(("grid = [8, 16]", "zip = [8, 16]"), ("n_layer = 1", "n_layer = { zip = [1, 2, 3] }")),
        [(5, "model.n_layer: 3 zipped values, and model.d_model has 2", "one length")],
    ),
    "a constraint on an unknown column": (
        changed(more='[constraints]\ndrop = ["N_totl > 3"]\n'),
        [(17, "constraints.drop[0]: N_totl is not known here", "did you mean N_total?")],
    ),
    "a constraint that is no condition": (
        changed(more='[constraints]\ndrop = ["N_total"  , "N_total + 1"]\n'),
        [(17, "constraints.drop[1]: this is no condition", "compare")],
    ),
    "a duplicate key": (
        changed(more="lr = 0.02\nsed = 1\n"),
        [(16, "lr is given twice", None), (17, "[train] sed is not a known key", "did you mean seed?")],
    ),
    "a duplicate table": (
        changed(more="[model]\nn_head = 4\n"),
        [(16, "[model] is given twice", None), (17, "[train] n_head is not a known key", "it belongs into [model]")],
    ),
    "a line that is not TOML, and others": (
        changed(("n_layer = 1", "n_layer = one"), ("seed", "sed")),
        [(5, "not TOML: invalid value", None), (15, "[train] sed is not a known key", "did you mean seed?")],
    ),
    "an open bracket": (changed(("[8, 16] }", "[8, 16")), [(5, "not TOML: unclosed array", "left open above")]),
    "an open quote": (changed(('"decoder"', '"decoder')), [(3, "not TOML", None)]),
    "brackets without end": ("a = " + "[" * 50_000, [(None, "nested too deep", None)]),
    "an unknown set": (
        changed(more='[eval]\nsets = ["held-in"]\n'),
        [(17, 'eval.sets[0]: "held-in" is not a set', "did you mean held-out?")],
    ),
    "a held-out set shorter than the context": (
        changed(more="[eval]\ntokens = 15\n"),
        [(7, "model.context: 16 tokens are more than eval.tokens = 15", None)],
    ),
    "data shorter than a window": (
        changed(
            ("symbols = 8", "symbols = 8\nlength = 1"),
            ("context = 16", "context = 8192"),
            ("batch_tokens = 64", "batch_tokens = 8192"),
            ("tokens = 6400", "tokens = 81920"),
        ),
        [
            (
                7,
                "model.context: segments of 4097 tokens are fewer than one window of context + 1 = 8193",
                "the longest context of these data is 4096",
            )
        ],
    ),
    "a context beyond every segment, read by a rule": (
        changed(
            ("tokens = 6400", "steps = 3"),
            ("context = 16", 'context = 5000\nd_ff = { rule = "ceil(epochs)" }'),
            ("batch_tokens = 64", "batch_tokens = 5000"),
        ),
        [(7, "model.context: segments of 4097 tokens are fewer than one window of context + 1 = 5001", "is 4096")],
    ),
    "fewer unique tokens than a window": (
        changed(('"markov"\nsymbols = 8', '"stdlib"\nunique_tokens = 16')),
        [(10, "data.unique_tokens: 16 tokens are fewer than one window of context + 1 = 17", "is 15")],
    ),
    "a size of the disk in words": (
        changed(more='[budget]\ndisk = "plenty"\n'),
        [(17, 'budget.disk: "plenty" is not a size', "5GB")],
    ),
    "a micro-batch in words": (
        changed(more='[runtime]\nmicro_batch = "small"\n'),
        [(17, 'runtime.micro_batch: "small" is not an integer or "auto"', None)],
    ),
    "an unknown key of slurm": (
        changed(more='[slurm]\npartion = "gpu"\n'),
        [(17, "[slurm] partion is not a known key", "did you mean partition?")],
    ),
    "an account with a command in it": (
        changed(more='[slurm]\naccount = "x; rm -rf ~"\n'),
        [(17, 'slurm.account: "x; rm -rf ~" is not the name of an account', "letters")],
    ),
    "a partition that is an option": (
        changed(more='[slurm]\npartition = "--uid=0"\n'),
        [(17, 'slurm.partition: "--uid=0" is not the name of a partition', "commas")],
    ),
    "resources over two lines": (
        changed(more='[slurm]\ngres = "gpu:1\\n#SBATCH --uid=0"\n'),
        [(17, 'slurm.gres: "gpu:1\\n#SBATCH --uid=0" holds characters that cannot be printed', None)],
    ),
    "a time in words": (
        changed(more='[slurm]\ntime = "soon"\n'),
        [(17, 'slurm.time: "soon" is not a time limit', "minutes")],
    ),
    "a time within its own grace": (
        changed(more='[slurm]\ntime = "0:02:00"\n'),
        [(17, 'slurm.time: "0:02:00" ends within the 120 seconds that slurm.signal leaves', "more time")],
    ),
    "a signal that ends the job at once": (
        changed(more='[slurm]\nsignal = "KILL@60"\n'),
        [(17, 'slurm.signal: "KILL@60" is not a signal and the seconds that it comes before the end', "USR1@120")],
    ),
    "a memory of no unit that Slurm knows": (
        changed(more='[slurm]\nmemory = "16 GiB"\n'),
        [(17, 'slurm.memory: "16 GiB" is not an amount of memory', "16G")],
    ),
    "no jobs": (
        changed(more="[slurm]\njobs = 0\n"),
        [(17, "slurm.jobs: 0 is too small; it has to be at least 1", None)],
    ),
    "two lines in one line of the setup": (
        changed(more='[slurm]\nsetup = ["module load x", "a\\nb"]\n'),
        [(17, 'slurm.setup[1]: "a\\nb" is not one line of a shell script', "of its own")],
    ),
    "a container that is an option": (
        changed(more='[slurm]\ncontainer = "--writable"\n'),
        [(17, 'slurm.container: "--writable" is not a container image', "docker")],
    ),
    "an address of Ray that is none of its head": (
        changed(more='[ray]\naddress = "ray://head:10001"\n'),
        [(17, 'ray.address: "ray://head:10001" is not the address of a cluster', "HOST:PORT")],
    ),
    "a resource of Ray without an amount": (
        changed(more='[ray]\nresources = ["fast", "a100=0"]\n'),
        [(17, 'ray.resources[1]: "a100=0" is not a resource of the cluster', "a100=2")],
    ),
    "cores as a resource of Ray by its own name": (
        changed(more='[ray]\nresources = ["CPUs", "CPU=4"]\n'),
        [(17, 'ray.resources[1]: "CPU=4" is not a resource of the cluster', "cpus, gpus and memory are keys of [ray]")],
    ),
    "no pilots": (
        changed(more="[ray]\npilots = 0\n"),
        [(17, "ray.pilots: 0 is too small; it has to be at least 1", None)],
    ),
    "an unknown key in a block": (
        changed(more="[[block]]\ntrain.lrr = 3\n"),
        [(17, "[train] lrr is not a known key", "did you mean lr?")],
    ),
    "a table that no block has": (
        changed(more="[[block]]\nruntime.slots = 3\n"),
        [(17, "[[block]] runtime is not model, data or train", None)],
    ),
    "a value of a block": (
        changed(more='[[block]]\nmodel.d_model = { grid = [4, "x"] }\n'),
        [(17, 'block[0].model.d_model[1]: "x" is not an integer', None)],
    ),
    "a table that is a value": (
        "model = 3\n" + GOOD.replace("[model]\n", "[x]\n"),
        [
            (1, "model: 3 is not a table", "[model]"),
            (3, "[x] is not a known table", None),
            (1, "model.family is missing", None),
        ],
    ),
    "the vocabulary": (
        changed(("n_layer = 1", "n_layer = 1\nvocab = 3")),
        [(6, "[model] vocab is not a known key", "the data set it")],
    ),
    "no name": (changed(('name = "tiny"\n', "")), [(1, "the sweep has no name", "name =")]),
    "an empty file": (
        "",
        [
            (1, "the sweep has no name", None),
            (None, "model.family is missing", None),
            (None, "says not how long", None),
            (None, "lr is missing", None),
        ],
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_with_every_mistake_and_its_line(case):
    text, expected = MALFORMED[case]
    found = in_moments(lambda: problems(text))
    assert len(found) == len(expected), [p.what for p in found]
    for line, what, remedy in expected:
        matching = [p for p in found if what in p.what and p.line == line]
        assert matching, (what, [(p.line, p.what) for p in found])
        assert remedy is None or remedy in (matching[0].remedy or ""), matching[0].remedy
        assert matching[0].snippet is not None or line in (None, 1)


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/passwd", "", "a\\u0000b", "a\\nb", "\\u001b[31mred", "[red]", "x" * 300, "-rf", "a b"],
)
def test_a_name_that_could_harm_is_refused(name):
    (problem,) = problems(changed(('"tiny"', f'"{name}"')))
    assert problem.line == 1
    assert "cannot name a sweep" in problem.what
    assert "".join(lines(SweepFileError("x.toml", (problem,)))).isprintable()


def test_several_mistakes_are_reported_at_once_in_the_order_of_the_file():
    found = problems(changed(("n_layer = 1", "n_layr = 1"), ("lr = 0.01", "lr = nan"), ("[8, 16]", '[8, "x"]')))
    assert [p.line for p in found] == [2, 4, 5, 14]


def test_the_sample_of_the_documentation_reads_as_documented():
    text = changed(
        ("d_model = { grid = [8, 16] }\nn_layer = 1", 'd_model = { grid = [8, "wide"] }\nn_layer = 1\nn_layr = 4')
    )
    with pytest.raises(SweepFileError) as caught:
        parse_sweep(text)
    assert "\n".join(lines(caught.value)) == textwrap.dedent("""\
        error: sweep.toml:4  model.d_model[1]: "wide" is not an integer
          4 | d_model = { grid = [8, "wide"] }
            |                        ^^^^^^
        error: sweep.toml:6  [model] n_layr is not a known key
          6 | n_layr = 4
            | ^^^^^^ did you mean n_layer?
        2 errors. Nothing was started.""")


def test_sentences_break_at_the_width_of_the_terminal_and_lines_of_the_file_do_not():
    line = f"lr = {'9' * 90}"
    error = SweepFileError("x.toml", (Problem(7, "a long story " * 9, "and how it ends " * 9, f"{line}\n^"),))
    said = lines(error, 60)
    assert f"  {line}" in said
    assert all(len(text) <= 60 for text in said if line not in text)
    assert " ".join(" ".join(said).split()).startswith("error: x.toml:7 a long story a long story")
    assert " ".join(" ".join(said).split()).count("and how it ends") == 9
    beside = SweepFileError("x.toml", (Problem(7, "short", "did you mean it?", "x\n^"),))
    assert lines(beside, 60)[:3] == ["error: x.toml:7  short", "  x", "  ^ did you mean it?"]


def test_the_caret_of_a_rule_stands_under_the_name_that_is_not_known():
    (problem,) = problems(changed(("lr = 0.01", 'lr = { rule = "0.1 / d_modl" }')))
    line, carets = problem.snippet.split("\n")
    assert line[carets.index("^") :].startswith("d_modl")


def test_a_mistake_that_is_repeated_in_every_cell_is_listed_once():
    (problem,) = problems(changed(("n_head = 2", "n_head = 3"), ("[8, 16]", "[8]")))
    assert "use 6 or 9" in problem.what
    many = problems(changed(("[8, 16]", f"{list(range(1, 601, 2))}")))
    assert len(many) == MAX_PROBLEMS + 1
    assert "at least 151 problems more" in many[-1].what


def test_a_billion_cells_are_counted_before_one_is_built():
    thousand = "{ grid = [" + ", ".join(str(2 * i) for i in range(1, 1001)) + "] }"
    text = changed(
        ("{ grid = [8, 16] }", thousand), ("n_layer = 1", f"n_layer = {thousand}"), ("{ grid = [0, 1] }", thousand)
    )
    (problem,) = in_moments(lambda: problems(text))
    assert "1,000,000,000 runs, more than 100,000" in problem.what
    assert problem.line == 4
    assert "--max-runs" in problem.remedy


def test_the_largest_number_of_runs_is_an_argument():
    assert len(parse_sweep(GOOD, max_runs=4).cells) == 4
    (problem,) = problems(GOOD, max_runs=3)
    assert "4 runs, more than 3" in problem.what


def test_a_file_that_is_not_text_or_too_large_or_not_there_is_refused(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_bytes(b'name = "a"\nquestion = "\xff\xfe"\n')
    with pytest.raises(SweepFileError) as caught:
        load(path)
    assert caught.value.problems[0].line == 2
    path.write_text(f'name = "{"x" * 5_000_000}"\n')

    def refused():
        with pytest.raises(SweepFileError, match="larger than 250 kB"):
            load(path)

    in_moments(refused)
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="directory"):
        load(tmp_path)
    with pytest.raises(UsageError, match="not a path"):
        load("a\0b")


@pytest.mark.parametrize(
    "text",
    [
        "a" + ".a" * 100_000 + " = 1",
        "x = {" + "'a' . " * 30_000 + "a = 1}",
        "\n".join(f"x{i} = 1" for i in range(20_000)),
        "[a]\n" * 60_000,
        "=\n" * 100_000,
        "x = " + "9" * 200_000,
        'x = "' + "\\u0041" * 40_000 + '"',
        GOOD + "x = [" + "[1]," * 60_000 + "]",
    ],
    ids=["dots", "quoted", "keys", "tables", "signs", "digits", "escapes", "lists"],
)
def test_a_hostile_file_is_refused_in_a_moment(text):
    found = in_moments(lambda: problems(text))
    assert all(len(p.what) < 500 for p in found)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("90:30", 5430), ("4:00:00", 14400), ("2-0", 172800), ("1-2:30", 95400), ("1-2:30:05", 95405)],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(time, seconds):
    assert Slurm(time=time).seconds == seconds


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [(None, 0), ("gpu", 1), ("gpu:2", 2), ("gpu:a100:4", 4), ("shard:8,gres/gpu:h100:2(S:0)", 2), ("nvme:1", 0)],
)
def test_the_gpus_of_a_job_are_read_from_its_resources(gres, gpus):
    assert Slurm(gres=gres).gpus == gpus


def test_a_good_file_is_frozen_and_typed():
    sweep = parse_sweep(
        changed(
            more='[eval]\nevery = 5\ntokens = 128\n[runtime]\nmicro_batch = 2\nslots = "auto"\n'
            '[budget]\ndevice_hours = 2\ndisk = "5GiB"\n'
            '[on_error]\nretries = 1\n[slurm]\naccount = "x"\nsetup = ["module load y"]\npilot = true\n'
        )
    )
    assert sweep.name == "tiny"
    assert sweep.runtime.micro_batch == 2
    assert sweep.runtime.slots is None
    assert sweep.budget.disk == 5 * 2**30
    assert sweep.on_error.retries == 1
    assert sweep.slurm == Slurm(account="x", setup=("module load y",), pilot=True)
    run = sweep.cells[0].run
    assert run.evaluation.every == 5
    assert run.task.held_out_tokens == 128
    assert type(run.model.options.d_model) is int
    assert type(run.optim.options.lr) is float
    with pytest.raises(AttributeError):
        sweep.name = "other"


def test_whole_floats_are_integers_where_integers_are_meant():
    sweep = parse_sweep(
        changed(("tokens = 6400", "tokens = 6.4e3"), ("symbols = 8", "symbols = 8\nunique_tokens = 1e5"))
    )
    assert sweep.cells[0].run.steps == 100
    assert sweep.cells[0].run.task.options.unique_tokens == 100_000


def test_an_override_wins_over_the_file_and_its_blocks():
    text = changed(more="[[block]]\ntrain.lr = 0.02\n")
    sweep = parse_sweep(
        text, overrides=["lr=0.03", "model.d_model={ grid = [4] }", "train.steps = 7", "data.source=markov"]
    )
    assert {c.run.optim.options.lr for c in sweep.cells} == {0.03}
    assert {c.run.model.options.d_model for c in sweep.cells} == {4}
    assert {c.run.steps for c in sweep.cells} == {7}


@pytest.mark.parametrize(
    ("override", "what", "remedy"),
    [
        ("train.lrr=1", "train.lrr is not known", "did you mean train.lr?"),
        ("tokens=3", "tokens could be eval.tokens or train.tokens", "in full"),
        ("train.lr", "has no value", "KEY=VALUE"),
        ("train.lr=", "is not a TOML value", None),
        ("train.lr=1\nx=2", "is not a TOML value", None),
        ("train.lr=fast", 'train.lr: "fast" is not a number', None),
        ("train.lr=-1", "train.lr: -1.0 is negative", None),
        ("model.d_model={ grid = [9] }", "9 is not a multiple", None),
    ],
)
def test_a_wrong_override_is_named(override, what, remedy):
    (problem,) = problems(GOOD, overrides=[override])
    assert what in problem.what
    assert problem.line is None
    assert problem.snippet.startswith("--set ")
    assert problem.snippet.isprintable()
    assert remedy is None or remedy in problem.remedy


OVERRIDES = (
    "lr=0.03",
    "model.d_model={ grid = [4] }",
    'data.source="markov"',
    "train.seed={ grid = [1, # the first\n2] }",
    " train.steps = 7",
)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n# with a comment\n"])
def test_recorded_overrides_replay(tmp_path, end):
    file = tmp_path / "sweep.toml"
    asked = parse_sweep(GOOD + end, overrides=OVERRIDES)
    file.write_text(with_overrides_recorded(asked.text, asked.overrides), newline="")
    again = load(file, recorded=True)
    assert again.overrides == OVERRIDES
    assert [cell.run for cell in again.cells] == [cell.run for cell in asked.cells]
    assert with_overrides_recorded(again.text, again.overrides) == file.read_text()
    assert file.read_text().startswith(GOOD.rstrip())


def test_an_override_given_now_comes_after_the_recorded_ones_and_is_recorded_once(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(with_overrides_recorded(GOOD, ["lr=0.03", "lr=0.02"]))
    sweep = load(file, ["lr=0.03"], recorded=True)
    assert {cell.run.optim.options.lr for cell in sweep.cells} == {0.03}
    assert recorded_overrides(with_overrides_recorded(sweep.text, sweep.overrides)) == ("lr=0.02", "lr=0.03")


def test_recorded_overrides_of_a_file_that_left_its_store_are_comments_and_noted(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(with_overrides_recorded(GOOD, ["lr=0.03"]))
    sweep = load(file)
    assert {cell.run.optim.options.lr for cell in sweep.cells} == {0.01}
    assert any("--set lines" in note for note in sweep.notes)
    assert load(file, recorded=True).notes == parse_sweep(GOOD).notes


@given(st.lists(st.text(), unique=True))
def test_any_override_can_be_recorded_in_a_file_that_stays_toml(overrides):
    text = with_overrides_recorded(GOOD, overrides)
    assert recorded_overrides(text) == tuple(overrides)
    assert tomllib.loads(text) == tomllib.loads(GOOD)
    assert with_overrides_recorded(text, ()) == GOOD


def test_data_that_cannot_be_used_are_refused_at_the_key_that_names_them(tmp_path):
    (tmp_path / "odd.bin").write_bytes(b"abc")
    (tmp_path / "bad.json").write_text("{}")
    cases = [
        (f'source = "tokens:{tmp_path}/none.bin"', 9, "data.source: no token file at", "scalectl prepare"),
        (f'source = "tokens:{tmp_path}/odd.bin"', 9, "data.dtype: odd.bin has no sidecar", "data.dtype"),
        (f'source = "tokens:{tmp_path}/odd.bin"\nvocab = 9\ndtype = "uint16"', 9, "3 bytes are no array", "data.dtype"),
        (
            f'source = "tokens:{tmp_path}/odd.bin"\nvocab = 9\ndtype = "uint8"',
            9,
            "token 99, beyond a vocabulary",
            "dtype",
        ),
        (f'source = "tokens:{tmp_path}/odd.bin"\ndtype = "int16"', 10, "not one of uint8, uint16", "did you mean"),
        (f'source = "parquet:{tmp_path}"', 9, "data.source: no Parquet file at", "PATH#COLUMN"),
        (f'source = "stdlib"\ntokenizer = "{tmp_path}/bad.json"', 10, "data.tokenizer: bad.json is not", "save it"),
        ('source = "stdlib"\ntokenizer = "none.json"', 10, 'data.tokenizer: no tokeniser at "none.json"', "tokenizers"),
        (
            'source = "stdlib"\ntokeniser = "x.json"',
            10,
            "[data] tokeniser is not a known key",
            "did you mean tokenizer?",
        ),
        ('source = "python_packages"', 9, "is not a source", "did you mean python-packages?"),
    ]
    for text, line, what, remedy in cases:
        found = problems(changed(('source = "markov"\nsymbols = 8', text)))
        assert [p.line for p in found] == [line], text
        assert what in found[0].what
        assert remedy in found[0].remedy
