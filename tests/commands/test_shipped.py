"""Which file a named sweep is."""

import os

import pytest

from scalectl.commands.shipped import is_recorded, sweep_file, sweeps_folder
from scalectl.store.layout import open_store

SHIPPED = sweeps_folder() / "stdlib-ladder.toml"


@pytest.mark.parametrize("named", ["stdlib-ladder", "stdlib-ladder.toml", "sweeps/stdlib-ladder.toml"])
def test_a_shipped_sweep_is_found_by_its_name(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep_file(named) == SHIPPED
    (tmp_path / "stdlib-ladder").mkdir()  # results or notes of the same name hide no sweep
    assert sweep_file(named) == SHIPPED


@pytest.mark.parametrize(
    "named", ["/no/such/stdlib-ladder.toml", "./stdlib-ladder", "other/sweeps/stdlib-ladder.toml", "../stdlib-ladder"]
)
def test_a_path_that_does_not_exist_is_not_another_file_of_the_same_name(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(sweep_file(named)) == str(type(SHIPPED)(named))
    assert not sweep_file(named).is_file()


def test_a_file_of_the_working_directory_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stdlib-ladder.toml").write_text("")
    assert sweep_file("stdlib-ladder.toml") != SHIPPED


def test_a_sweep_of_the_store_is_found_by_its_name_after_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("results")
    for name in ("mine", "stdlib-ladder"):
        store.sweep_folder(name).mkdir(parents=True)
        (store.sweep_folder(name) / "sweep.toml").write_text("")
    stored = store.sweep_folder("mine") / "sweep.toml"
    assert sweep_file("mine", store) == stored
    assert sweep_file("stdlib-ladder", store) == SHIPPED
    assert sweep_file("./mine", store) != stored
    assert sweep_file("mine.toml", store) != stored
    (tmp_path / "mine").write_text("")
    assert sweep_file("mine", store).resolve() == tmp_path / "mine"


def test_a_file_of_the_store_is_known_by_any_path_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("results")
    stored = store.sweep_folder("mine") / "sweep.toml"
    assert is_recorded(stored, store)
    assert is_recorded(type(stored)(os.path.relpath(stored)), store)
    assert not is_recorded(SHIPPED, store)
    assert not is_recorded(tmp_path / "sweep.toml", store)
