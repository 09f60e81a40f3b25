"""Fixtures that several test files share."""

import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def quick():
    """Save minutes in all: networks this small are slower on several threads, and what
    tests write need not survive a power cut."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def one_thread():
    """Compute on one thread, whatever was set before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
