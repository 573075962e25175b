"""What tests of models share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums of several threads round otherwise from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
