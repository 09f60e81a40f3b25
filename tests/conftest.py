"""Fixtures that several test files share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Networks this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
