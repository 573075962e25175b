import pytest

from scalectl.core.names import did_you_mean, escaped, is_name, meant, shown


@pytest.mark.parametrize("name", ["a", "stdlib-ladder", "A.b_c-9", "0", "x" * 64])
def test_plain_names_are_allowed(name):
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../../x",
        "/etc/passwd",
        "a/b",
        "a b",
        "-rf",
        "_x",
        "x" * 65,
        "x" * 300,
        "a\0",
        "a\n",
        "[red]",
        "\x1b[31m",
        "é",
    ],
)
def test_names_that_could_harm_are_refused(name):
    assert not is_name(name)


@pytest.mark.parametrize(
    "value",
    ["\x1b]0;title\x07", "a\nb", "x" * 10_000, 10**5000, ["\x1b[2J"] * 500, {"\x9b31m": 1}, "\u202e"],
    ids=range(7),
)
def test_what_is_quoted_back_is_short_and_printable(value):
    text = shown(value)
    assert text.isprintable()
    assert len(text) <= 400


def test_escape_codes_become_visible():
    assert shown("a\x1b[31mb\n") == '"a\\x1b[31mb\\n"'
    assert escaped("[red]x") == "[red]x"
    assert shown(True) == "true"


def test_a_last_part_that_is_closer_than_another_whole_name_was_meant():
    assert meant("dmodel", ["model.tie", "model.d_model", "train.lr"]) == "model.d_model"


def test_the_name_that_was_meant_is_found_also_by_its_last_part():
    known = ("model.n_layer", "model.d_model", "train.lr")
    assert meant("n_layr", ["n_layer", "n_head"]) == "n_layer"
    assert meant("N_Layer", ["n_layer"]) == "n_layer"
    assert meant("n_layers", known) == "model.n_layer"
    assert meant("zzz", known) is None
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert did_you_mean("zzz", [f"name{i}" for i in range(500)]) is None
