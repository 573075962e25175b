import tomllib

from hypothesis import given
from hypothesis import strategies as st

from scalectl.sweep.locate import Place, locate, snippet

TEXT = '''# comment with [brackets] and = signs
name = "x # not a comment"  # but this
[model]
d_model = { grid = [8, 16,
  "a]b", # inside
  [1, 2] ] }
train.lr = 3e-4
"quoted key"."z" = 'l]'
long = """a
"b" ] = {"""
[[block]]
model.d_model = 3
[block.train]
lr = { rule = "min(1, 2)" }
[[block]]
x = [ { a = 1 }, {b=[true,-2]} ]
  [[block.sub]]
  a=1979-05-27 07:32:00
  [[block.sub]]
  b=''
'''


def paths(value, path=()):
    """Every path of a TOML document, of tables, values and items."""
    found = {path} if path else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in items:
        found |= paths(held, (*path, key))
    return found


def test_every_path_of_the_document_has_a_place():
    places = locate(TEXT)
    assert paths(tomllib.loads(TEXT)) == set(places.keys) | set(places.values)


def test_places_are_lines_columns_and_widths():
    places = locate(TEXT)
    assert places.value(("model", "d_model", "grid", 1)) == Place(4, 24, 2)
    assert places.value(("model", "d_model", "grid", 2)) == Place(5, 3, 5)
    assert places.value(("model", "d_model", "grid", 3, 1)) == Place(6, 7, 1)
    assert places.key(("model", "train", "lr")) == Place(7, 1, 8)
    assert places.key(("block", 1)) == Place(15, 1, 9)
    assert places.value(("block", 0, "train", "lr", "rule")) == Place(14, 15, 11)
    assert places.value(("block", 1, "sub", 1, "b")) == Place(20, 5, 2)


def test_what_is_not_in_the_file_stands_at_its_nearest_part():
    places = locate(TEXT)
    assert places.key(("model", "n_layer")) == Place(3, 1, 7)
    assert places.key(("data",)) is None


def test_windows_line_ends_count_as_one():
    assert locate("a = 1\r\nb = 2\r\n").value(("b",)) == Place(2, 5, 1)


def test_a_snippet_points_at_its_place_and_hides_what_a_terminal_obeys():
    assert snippet(["", "n_layr = 4"], Place(2, 1, 6)) == "2 | n_layr = 4\n  | ^^^^^^"
    drawn = snippet(["x = 1\x1b[31m\t2"], Place(1, 5, 1))
    assert drawn.replace("\n", "").isprintable()
    long = snippet(["x = [" + "1, " * 5000 + "nan]"], Place(1, 15006, 3))
    line, carets = long.split("\n")
    assert len(line) < 120
    assert line[carets.index("^") :].startswith("nan")


keys = st.text("abcXYZ_-09", min_size=1, max_size=4) | st.text(min_size=1, max_size=4).filter(
    lambda t: "\r" not in t and t.isprintable()
)
scalars = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans(), st.text(max_size=8))
documents = st.dictionaries(
    keys,
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
    ),
    max_size=5,
)


def quoted(text):
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def written(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[ " + ",\n".join(written(v) for v in value) + " ]"
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value) if isinstance(value, str) else repr(value)


@given(documents, st.booleans())
def test_the_scanner_finds_exactly_the_paths_that_tomllib_reads(document, headers):
    tables = {k: v for k, v in document.items() if isinstance(v, dict) and headers}
    text = "".join(f"{quoted(k)} = {written(v)}\n" for k, v in document.items() if k not in tables)
    for key, table in tables.items():
        text += f"[ {quoted(key)} ] # {{\n" + "".join(
            f"{quoted(k)}.{quoted(k)} = {written(v)}\n" for k, v in table.items()
        )
    places = locate(text)
    assert paths(tomllib.loads(text)) == set(places.keys) | set(places.values)
