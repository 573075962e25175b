"""[run] command: what a grid of somebody's script resolves to, what its runs are, and what is refused with its line."""

import re
import shutil
import sys
import textwrap

import pytest
from support import REPOSITORY, in_moments

from scalectl.core.errors import SweepFileError
from scalectl.core.run import CommandRun, flat, record, restore
from scalectl.sweep.command import Durations, Finished
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import load, parse_sweep

SWEEP = """\
name = "mine"
[run]
command = ["python3", "plain.py", "--width", "{width}", "--seed={seed}", "--out", "{out}"]
N = "12 * depth * width^2"
D = "steps * 64"
[params]
width = { grid = [16, 32] }
depth = 2
steps = 100
seed = { grid = [0, 1] }
"""

COUNTS = 'N = "12 * depth * width^2"\nD = "steps * 64"'


@pytest.fixture
def parsed(tmp_path):
    shutil.copy(REPOSITORY / "tests/scripts/plain.py", tmp_path)

    def parse(text=SWEEP, *overrides, **more):
        return parse_sweep(textwrap.dedent(text), path=str(tmp_path / "mine.toml"), overrides=overrides, **more)

    return parse


@pytest.fixture
def planned(parsed):
    return lambda *args: expand(parsed(*args))


def refused(parsed, text, *overrides):
    with pytest.raises(SweepFileError) as caught:
        parsed(text, *overrides)
    return [(held.line, held.what, held.remedy) for held in caught.value.problems]


def test_parameters_go_into_the_command_and_what_the_machine_decides_does_not(planned, tmp_path):
    plan = planned()
    assert plan.axes == ("params.width", "train.seed")
    runs = [held.run for held in plan.runs]
    assert runs[3].command == ("python3", "plain.py", "--width", "32", "--seed=1", "--out", "{out}")
    assert [run.N for run in runs] == [6144, 6144, 24576, 24576]
    assert {run.D for run in runs} == {6400}
    assert plan.runs[3].flops == 6 * 24576 * 6400
    assert flat(runs[3])["params.width"] == 32
    assert flat(runs[3])["train.seed"] == 1
    assert str(tmp_path) not in str(record(runs[0]))
    assert [restore(record(run), {}) for run in runs] == runs


def ids(plan):
    return [held.run_id for held in plan.runs]


def test_a_run_is_its_command_its_parameters_and_its_code(planned, tmp_path):
    before = ids(planned())
    assert len(set(before)) == 4
    same = SWEEP.replace("width = { grid = [16, 32] }\ndepth = 2", "depth = 2.0\nwidth = { grid = [16.0, 32] }")
    assert ids(planned(same)) == before
    assert ids(planned(SWEEP.replace("12 * depth * width^2", "12 * depth * width^2 + 7"))) == before
    for changed in (
        SWEEP.replace("depth = 2", "depth = 3"),
        SWEEP.replace("--seed=", "--seed="[:-1] + "s="),
        SWEEP.replace("[params]", 'env = { MODE = "{width}" }\n[params]'),
        SWEEP.replace("[params]", "rows = 'step (?P<step>.*) loss (?P<loss>.*)'\n[params]"),
    ):
        assert not set(before) & set(ids(planned(changed)))
    with (tmp_path / "plain.py").open("a") as file:
        file.write("# edited\n")
    edited = ids(planned())
    assert not set(before) & set(edited)
    (tmp_path / "model.py").write_text("x = 1")
    listed = SWEEP.replace("[params]", 'code = ["mod*.py"]\n[params]')
    assert not set(edited) & set(ids(planned(listed)))
    assert planned(listed).runs[0].run.files == ("model.py", "plain.py")


def test_rules_zips_blocks_constraints_and_overrides_are_those_of_other_sweeps(planned):
    text = """\
        name = "mine"
        [run]
        command = ["python3", "plain.py", "{width}", "{seed}", "{lr}", "{steps}", "{half}", "{out}"]
        N = "12 * width^2"
        D = "steps * 64"
        [params]
        seed = 0
        lr = { rule = "0.1 * 64 / width" }
        half = { rule = "width / 2" }
        steps = { rule = "ceil(20 * N / 64)" }
        [[block]]
        params.width = { zip = [16, 32] }
        params.seed = { zip = [5, 6] }
        [[block]]
        params.width = { grid = [64, 128] }
        [constraints]
        drop = ["D > 3e6", "width == 16 and seed == 5"]
        """
    plan = planned(text)
    assert [(dict(held.run.params)["width"], dict(held.run.params)["seed"]) for held in plan.runs] == [(32, 6), (64, 0)]
    assert [why for _, why in plan.dropped] == ["width == 16 and seed == 5", "D > 3e6"]
    params = dict(plan.runs[1].run.params)
    assert (params["lr"], params["steps"], params["half"]) == (0.1, 15360, 32)
    assert plan.runs[1].run.command[-4:-1] == ("0.1", "15360", "32")
    assert len(planned(SWEEP, "params.width=8").runs) == 2
    assert len(planned(SWEEP, "width={ grid = [1, 2, 3] }").runs) == 6


def test_values_are_written_as_scripts_read_them(planned):
    text = SWEEP.replace('"--out"', '"{flag}", "{name}", "{rate}", "{{raw}}", "--out"')
    text += 'flag = true\nname = "a {b}"\nrate = 1e-5\n'
    run = planned(text).runs[0].run
    assert run.command[-6:-2] == ("true", "a {{b}}", "1e-05", "{{raw}}")
    assert run.params[-1] == ("width", 16)
    assert dict(run.params)["name"] == "a {b}"


def test_negative_parameters_and_texts_are_parameters(planned):
    text = SWEEP.replace("depth = 2", 'depth = 2\nshift = { grid = [-1.5, "none", true] }').replace(
        "{width}", "{width}{shift}"
    )
    assert [dict(held.run.params)["shift"] for held in planned(text).runs[:6:2]] == [-1.5, "none", True]


@pytest.mark.parametrize(
    ("old", "new", "line", "what", "remedy"),
    [
        ("{width}", "{widht}", 3, "{widht} is no parameter", "did you mean width?"),
        (
            "depth = 2",
            "depth = 2\nunused = 1",
            9,
            "params.unused: neither the command nor a rule names it",
            "SCALECTL_PARAMS",
        ),
        ("12 * depth", "12 * dept", 4, "run.N: dept is not known here", "did you mean params.depth?"),
        ("12 * depth", "12 * * depth", 4, "run.N: * does not fit here", None),
        (COUNTS, COUNTS.replace("12", "D").replace("64", "N"), 4, "run.N: rules in a circle, run.N -> run.D", None),
        ("steps * 64", "steps - 100", 5, "run.D: the rule gives a value that does not fit: 0.0 is too small", None),
        ("12 * depth", "1e30 * depth", 4, "run.N: the rule gives a value that does not fit: 5.12e+32", None),
        ("depth = 2", "depth = [1, 2]", 8, "params.depth: a bare list", "grid"),
        ("depth = 2", "depth = nan", 8, "params.depth: nan is not a finite number", None),
        ("depth = 2", "depth = { grid = [] }", 8, "params.depth: an empty list", None),
        ("depth = 2", "out = 2", 8, "cannot name a parameter", None),
        ("plain.py", "plane.py", 3, "no argument of the command is a file", "code ="),
        ("python3", "no-such-program", 3, '"no-such-program" is not on the PATH', None),
        ("python3", "./plain", 3, '"./plain" is no program in', None),
        ("[params]", 'code = ["*.cpp"]\n[params]', 6, 'run.code: no file "*.cpp"', None),
        ("[params]", 'rows = "(loss"\n[params]', 6, "in this regular expression", None),
        ("[params]", 'rows = "loss (?P<loss>.*)"\n[params]', 6, "it finds no step and loss", "step"),
        ("[params]", 'rows = "(?P<stepp>.*)"\n[params]', 6, "no row has a stepp", "did you mean step?"),
        ("[params]", "comand = 1\n[params]", 6, "[run] comand is not a known key", "did you mean command?"),
        ("[params]", '[model]\nfamily = "decoder"\n[params]', 6, "[model] means nothing beside [run]", "[params]"),
        ("[params]", "[eval]\nevery = 5\n[params]", 6, "[eval] means nothing beside [run]", "[params]"),
        (
            'command = ["python3", "plain.py", "--width", "{width}", "--seed={seed}", "--out", "{out}"]\n',
            "",
            2,
            "[run] command is missing",
            "as in",
        ),
        ("[params]", 'env = { SCALECTL_ROWS = "x" }\n[params]', 6, '"SCALECTL_ROWS" cannot name a variable', None),
        ("[params]", 'env = { MODE = "{mode}" }\n[params]', 6, "{mode} is no parameter", "[params] mode"),
        ("[params]", 'convention = "all"\n[params]', 6, 'run.convention: "all" is not one of', None),
    ],
)
def test_mistakes_are_refused_with_their_line(parsed, old, new, line, what, remedy):
    found = refused(parsed, SWEEP.replace(old, new))
    assert [at for at, said, how in found if what in said and (remedy is None or remedy in (how or ""))] == [line], (
        found
    )


def test_parameters_of_a_file_without_a_script_and_of_a_block_that_lacks_one_are_refused(parsed):
    assert refused(parsed, 'name = "x"\n[params]\nwidth = 1\n')[0][1] == "[params] are those of somebody's script"
    text = SWEEP.replace("width = { grid = [16, 32] }\n", "") + "[[block]]\nparams.depth = 3\n"
    assert (10, "the command needs {width}, which is not given here", None) in refused(
        parsed, text + "[[block]]\nparams.width = 3\n"
    )
    assert "params.wdth" in refused(parsed, SWEEP, "params.wdth=3")[0][1]


def test_a_grid_of_a_script_is_counted_before_it_is_built(parsed):
    text = re.sub(r"\[16, 32\]", "[" + ",".join(map(str, range(400))) + "]", SWEEP).replace(
        "[0, 1]", str(list(range(400)))
    )
    assert "the grids have 160,000 runs" in refused(parsed, text)[0][1]


def test_a_script_that_reads_its_parameters_as_json_need_not_name_them(parsed, tmp_path):
    text = SWEEP.replace('"--width", "{width}", "--seed={seed}", ', "")
    assert {what for _, what, _ in refused(parsed, text)} >= {"params.seed: neither the command nor a rule names it"}
    (tmp_path / "plain.py").write_text("import os\nos.environ['SCALECTL_PARAMS']")
    assert len(parsed(text).commands) == 4
    (tmp_path / "plain.py").write_text("import sys")
    named = parsed(text.replace('"{out}"', '"{out}", "{params}"'))
    assert '{{"depth": 2, "seed": 0, "steps": 100, "width": 16}}' in named.commands[0].run.command


def test_a_script_is_found_where_it_was_swept_from_also_by_the_stored_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("pass")
    (tmp_path / "stored").mkdir()
    for python in ("python", sys.executable):
        for path in ("a.toml", "stored/a.toml"):
            command = f'command = ["{python}", "train.py", "{{x}}"]'
            (tmp_path / path).write_text(f'name = "a"\n[run]\n{command}\n[params]\nx = 1\n')
        ids = [expand(load(tmp_path / path)).run_ids for path in ("a.toml", "stored/a.toml")]
        assert ids[0] == ids[1]


def test_the_plan_says_what_only_the_script_can_know(planned):
    text = (
        SWEEP.replace('"--out", "{out}"', '"x"').replace('N = "12 * depth * width^2"\n', "").replace("depth = 2\n", "")
    )
    notes = planned(text).notes
    assert any("begins anew" in note for note in notes)
    assert any("N is not known" in note for note in notes)
    assert planned(text).runs[0].flops is None
    assert not planned().notes


def test_the_time_of_a_run_is_learned_from_those_that_are_done():
    assert Durations(()).expected({"width": 1}, 1e9) is None
    done = [Finished({"width": w, "seed": s}, 1e9 * w, 2.0 + w) for w in (1, 2, 4) for s in (0, 1)]
    durations = Durations(done)
    assert durations.expected({"width": 4, "seed": 7}, 4e9) == 6.0
    assert durations.expected({"width": 8, "seed": 0}, 8e9) == pytest.approx(10.0)
    assert durations.expected({"width": 8}, None) == pytest.approx(2 + 7 / 3)
    assert Durations(done[:1]).expected({"width": 8}, 8e9) == pytest.approx(24.0)
    falling = [Finished({"width": w}, 1e9 * w, 10.0 - w) for w in (1, 2)]
    assert Durations(falling).expected({"width": 8}, 8e9) == pytest.approx(8.5)
    assert Durations([Finished({"width": 1}, None, 3.0)]).expected({"width": 8}, 8e9) == 3.0


def test_half_of_a_large_grid_says_in_a_moment_what_the_other_half_takes():
    cells = [({"width": w, "depth": d, "seed": 0}, 1e6 * w * d) for w in range(1, 101) for d in range(1, 101)]
    done = [Finished(params, flops, 1 + flops) for params, flops in cells[::2]]

    def expected():
        durations = Durations(done)
        return [durations.expected(params, flops) for params, flops in cells[1::2]]

    assert in_moments(expected) == pytest.approx([1 + flops for _, flops in cells[1::2]])


def test_records_of_scripts_have_ids_that_never_move():
    run = CommandRun(("python", "train.py", "3"), (("width", 3),), (("A", "b"),), "sha256:1", "")
    assert run.run_id == "0e6f9495a41dbb54"
