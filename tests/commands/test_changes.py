"""What changed outside of a sweep file and makes its runs new is said before they are trained anew."""

import sys

from support import SWEEP

TEXT = SWEEP.replace('source = "markov"\nlength = 200000', 'source = "text:words.txt"').replace(
    "[8, 16, 32]", "[8, 16]"
)
SCRIPT = """\
import json, os, sys
with open(os.environ["SCALECTL_ROWS"], "a") as rows:
    print(json.dumps({"step": 1, "loss": float(sys.argv[1])}), file=rows)
"""


def said(scalectl, folder, name):
    """What `plan` and `sweep` say, in one line each; they agree."""
    plan = " ".join(scalectl("plan", name, cwd=folder).stdout.split())
    sweep = " ".join(scalectl("sweep", name, cwd=folder).stderr.split())
    return plan, sweep


def test_a_text_that_changed_a_file_that_was_edited_and_other_evaluations(scalectl, tmp_path):
    words = "to be or not to be, that is the question\n"
    (tmp_path / "words.txt").write_text(words * 1200)
    (tmp_path / "tiny.toml").write_text(TEXT)
    first = said(scalectl, tmp_path, "tiny.toml")
    assert not any("new:" in text for text in first)
    (tmp_path / "words.txt").write_text(words * 1201)
    for text in said(scalectl, tmp_path, "tiny.toml"):
        assert "4 runs of cells that were trained before are new: the data of text:words.txt changed since" in text
    (tmp_path / "tiny.toml").write_text(TEXT.replace("every = 10", "every = 5"))
    for text in said(scalectl, tmp_path, "tiny.toml"):
        assert "eval.every is 5; what 4 finished runs measured every 10 steps stays as it is" in text
        assert "new:" not in text
    (tmp_path / "tiny.toml").write_text(TEXT.replace("lr = 0.01", "lr = 0.02"))  # who edits the file knows
    assert not any("new:" in text for text in said(scalectl, tmp_path, "tiny.toml"))


def test_a_script_that_was_edited(scalectl, tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT)
    (tmp_path / "mine.toml").write_text(
        f'name = "mine"\n[run]\ncommand = ["{sys.executable}", "mine.py", "{{width}}"]\nN = "width"\nD = 10\n'
        "[params]\nwidth = { grid = [1, 2, 3] }\n"
    )
    assert not any("new:" in text for text in said(scalectl, tmp_path, "mine.toml"))
    (tmp_path / "mine.py").write_text(SCRIPT + "# a comment\n")
    for text in said(scalectl, tmp_path, "mine.toml"):
        assert "3 runs of cells that were trained before are new: mine.py changed since" in text
    assert not any("new:" in text for text in said(scalectl, tmp_path, "mine.toml"))
