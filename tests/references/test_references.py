"""The registry holds together, and a table is fetched once, checked, and never believed unchecked."""

import dataclasses
import functools
import gc
import hashlib
import http.server
import re
import threading

import pytest

from scalectl.core.cost import CONVENTIONS
from scalectl.core.errors import DataError
from scalectl.core.expression import parse
from scalectl.fit.objective import parse_objective
from scalectl.laws import LAWS
from scalectl.references import REFERENCES, Reference, Table, fetch

TABLES = [(held, table) for held in REFERENCES.values() for table in held.tables.values()]
CSV = "params,tokens,loss\n1000000,20000000,4.5\n"
ROWS = '{"params":1000000,"tokens":20000000,"loss":4.5}\n'


@pytest.mark.parametrize(("reference", "table"), TABLES, ids=[table.file for _, table in TABLES])
def test_a_table_says_where_it_comes_from_and_what_its_columns_are(reference, table):
    assert re.fullmatch(r"[0-9a-f]{64}", table.sha256)
    assert table.url is None or re.match(r"https://\S+/[0-9a-f]{40}/\S+\.(csv|jsonl)$", table.url)
    assert (table.url is None) == bool(table.made)
    assert ("S" if table.holds == "scores" else "L") in table.columns
    assert table.counts
    assert set(table.counts) <= {*CONVENTIONS, None}
    assert all(re.search(r"arXiv \d{4}\.\d{5}", paper) for paper in reference.cite)
    assert re.search(r"@ [0-9a-f]{40}", reference.origin)
    assert reference.licence


@pytest.mark.parametrize(("reference", "table"), TABLES, ids=[table.file for _, table in TABLES])
def test_what_was_published_about_a_table_can_be_compared(reference, table):
    for fit in table.fits:
        assert {name.removeprefix("ln ") for name in fit.params} == set(LAWS[fit.law].names)
        assert fit.convention in table.counts
        parse_objective(fit.objective)
        assert all(float(digits) for digits in fit.params.values())
    for exponent in table.exponents:
        assert exponent.approach in (1, 2, 3)
        assert 0 < exponent.interval[0] < exponent.interval[1] < 1
    for where in [held.where for held in (*table.fits, *table.exponents) if held.where]:
        assert parse(where).is_condition


def test_the_gemstones_bring_all_twenty_two_stored_fits():
    fits = [fit for table in REFERENCES["gemstones"].tables.values() for fit in table.fits]
    assert len(fits) == 22
    assert all(fit.value for fit in fits)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A web server on this machine: its address, and the folder that it serves."""
    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path / "www"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECTL_REFERENCES", str(tmp_path / "tables"))
    return tmp_path / "tables"


def of(url, text=CSV):
    table = Table(
        file="set/table.csv",
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        url=url,
        columns={"D": "tokens", "L": "loss"},
        counts={"total": "params"},
        made="" if url else "in pieces",
    )
    return Reference("set", "a set", ("Nobody 2026",), "nowhere", "none", {"table": table}), table


@pytest.mark.parametrize(("name", "text"), [("table.csv", CSV), ("table.jsonl", ROWS)])
def test_a_table_is_fetched_once_and_then_read_without_a_network(served, kept, name, text):
    address, folder = served
    (folder / name).write_text(text)
    reference, table = of(f"{address}/{name}")
    path = fetch(reference, table)
    assert path == kept / "set" / "table.csv"
    assert path.read_text() == CSV
    (folder / name).unlink()
    assert fetch(reference, table) == path
    assert [held.name for held in path.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(("name", "text"), [("table.csv", CSV), ("table.jsonl", ROWS)])
def test_other_bytes_than_the_published_ones_are_not_kept(served, kept, name, text):
    address, folder = served
    (folder / name).write_text(text.replace("4.5", "4.4"))
    with pytest.raises(DataError, match=r"cannot be fetched: .*(hash|sha256)"):
        fetch(*of(f"{address}/{name}"))
    assert not list((kept / "set").iterdir())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # pooch leaves a refused answer to the collector
def test_a_table_that_is_not_there_any_more_names_its_address_and_where_to_put_it(served, kept):
    with pytest.raises(DataError, match="cannot be fetched: 404") as raised:
        fetch(*of(f"{served[0]}/gone.csv"))
    assert raised.value.where == f"{served[0]}/gone.csv"
    assert str(kept / "set" / "table.csv") in raised.value.remedy
    del raised
    gc.collect()


def test_without_a_network_the_error_says_so(kept):
    with pytest.raises(DataError, match=r"cannot be fetched: .*Connection") as raised:
        fetch(*of("http://127.0.0.1:9/table.csv"))
    assert "SCALECTL_REFERENCES" in raised.value.remedy


def test_a_changed_file_is_refused(kept):
    reference, table = of("http://127.0.0.1:9/table.csv")
    (kept / "set").mkdir(parents=True)
    (kept / table.file).write_text(CSV + "1,2,3\n")
    with pytest.raises(DataError, match="its sha256 is") as raised:
        fetch(reference, table)
    assert raised.value.where == str(kept / table.file)
    assert "remove it" in raised.value.remedy
    (kept / table.file).write_text(CSV)
    assert fetch(reference, table).read_text() == CSV


def test_a_table_in_pieces_is_never_asked_for(kept):
    reference, table = of(None)
    with pytest.raises(DataError, match="not served as one file: in pieces"):
        fetch(reference, table)
    assert fetch(*put(kept, reference, dataclasses.replace(table))).is_file()


def put(kept, reference, table):
    (kept / "set").mkdir(parents=True)
    (kept / table.file).write_text(CSV)
    return reference, table
