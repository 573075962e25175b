import os
import shutil
import time

from scalectl.core.cache import cache_folder, keep, recall, stamp


def test_what_is_kept_is_recalled_by_kind_and_whole_key(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path / "new" / "cache"))
    assert recall("facts", "a") is None
    keep("facts", "a", {"n": [1, 2]})
    assert recall("facts", "a") == {"n": [1, 2]}
    assert recall("facts", "b") is None
    assert recall("other", "a") is None
    keep("facts", "a", 3)
    assert recall("facts", "a") == 3
    assert not [path for path in cache_folder().rglob("*") if path.name.startswith(".")]


def test_a_damaged_or_foreign_entry_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path))
    keep("facts", "a", 1)
    place = next((tmp_path / "facts").iterdir())
    for content in ("", "{", "[1]", "3", '{"key": "a"}', '{"key": "b", "value": 1}'):
        place.write_text(content)
        assert recall("facts", "a") is None


def test_a_folder_that_cannot_be_written_is_no_trouble(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path / "file"))
    keep("facts", "a", 1)
    assert recall("facts", "a") is None


def test_the_folder_is_the_users(tmp_path, monkeypatch):
    monkeypatch.delenv("SCALECTL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "scalectl"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "scalectl"
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_stamp_tells_a_changed_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("abc")
    before = stamp(path)
    monkeypatch.chdir(tmp_path)
    assert stamp(type(path)("f")) == before
    os.utime(path, ns=(1, 1))
    later = stamp(path)
    path.write_text("abcd")
    os.utime(path, ns=(1, 1))
    assert len({before, later, stamp(path)}) == 3
    copy = tmp_path / "copy"
    copy.write_text("wxyz")
    os.utime(copy, ns=(1, 1))
    longer = stamp(path)
    time.sleep(0.02)  # beyond a tick of the file system's clock
    shutil.copyfile(copy, path)
    shutil.copystat(copy, path)  # as `cp -p` does
    assert path.stat().st_mtime_ns == 1
    assert stamp(path) != longer
