"""One command with subcommands: each is the script of its name."""

import importlib

import pytest

from dreamerv2 import __main__ as command
from dreamerv2.common.config import load_presets


def test_each_subcommand_is_its_script_with_the_other_arguments(monkeypatch):
    for name, (module, _) in command.COMMANDS.items():
        if module:
            seen = []
            script = importlib.import_module(module)
            monkeypatch.setattr(
                script, "main", lambda argv, seen=seen: seen.append(argv)
            )
            command.main([name, "--logdir", "x", "--help"])
            assert seen == [["--logdir", "x", "--help"]]


def test_presets_are_listed_with_what_they_change(capsys):
    assert command.main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line for line in lines if not line.startswith(" ")]
    assert names == [name for name in load_presets() if name != "defaults"]
    assert "  time_limit: 27000" in lines


def test_help_names_every_subcommand(capsys):
    assert command.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in command.COMMANDS)


@pytest.mark.parametrize(
    "name, said",
    [("trian", "did you mean train?"), ("xyz", "expected one of train, play,")],
)
def test_an_unknown_subcommand_is_refused_by_a_sentence(name, said, capsys):
    assert command.main([name, "--x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dreamerv2: Unknown command '{name}'; ") and said in line
