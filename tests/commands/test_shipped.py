"""Which file a named sweep is."""

import pytest

from scalectl.commands.shipped import sweep_file, sweeps_folder

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
