"""Agents on a hub: pushed to and loaded from a stand-in for its server."""

from pathlib import Path

import pytest
from run_tools import TINY, ok, train_here

from dreamerv2.common.errors import UsageError
from dreamerv2.running.exported import open_agent
from dreamerv2.running.exporting import export_run, push_agent

pytest.importorskip("huggingface_hub")

import hub_tools  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def server(monkeypatch, tmp_path):
    with hub_tools.stand_in(monkeypatch, tmp_path / "cache"):
        yield


def test_an_agent_pushed_to_the_hub_is_opened_by_its_name(server, tmp_path):
    folder = tmp_path / "run"
    ok(train_here(*TINY, "--task", "toy_catch", "--logdir", folder, "--steps", 24))
    export_run(folder, tmp_path / "out")
    assert push_agent(tmp_path / "out", "org/catcher") == "hf://org/catcher"
    names = {"catch.safetensors", "catch.yaml", "catch.npz"}
    assert set(hub_tools.StandIn.files["org/catcher"]) == names
    found = open_agent("hf://org/catcher")
    for path in (tmp_path / "out").iterdir():
        assert (Path(found.base).parent / path.name).read_bytes() == path.read_bytes()


def test_what_the_hub_does_not_have_is_one_sentence(server):
    with pytest.raises(UsageError, match=r"hub does not give or take org/none .*name"):
        open_agent("hf://org/none")
