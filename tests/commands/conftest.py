"""A tiny sweep on the language of known entropy, trained once."""

import pytest
from support import SWEEP


@pytest.fixture(scope="session")
def trained(tmp_path_factory, scalectl):
    """A folder with tiny.toml and the results of its sweep; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(SWEEP)
    scalectl("sweep", "tiny.toml", cwd=folder)
    return folder
