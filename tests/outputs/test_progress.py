"""Progress bars on a terminal, and lines elsewhere."""

import io

import pytest
from rich.console import Console

from dreamerv2.common.outputs.progress import PlainBar, format_rate, progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def plain_bar(**kwargs):
    lines, clock = [], Clock()
    bar = PlainBar("Prefill", write=lines.append, clock=clock, **kwargs)
    return bar, lines, clock


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def test_output_that_is_no_terminal_gets_plain_lines(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("Prefill", total=100, start=20) as bar:
        for _ in range(80):
            bar.advance()
    assert bar.count == 100
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Prefill: 20/100 (20%)"
    assert lines[1].startswith("Prefill done: 100/100 (100%) in 0:00:00, ")
    assert len(lines) == 2


def test_lines_tell_recent_rate_and_time_left_at_growing_intervals():
    bar, lines, clock = plain_bar(total=10000, start=1000)
    for _ in range(100):
        clock.now += 1
        bar.advance(20)
    assert lines[1:] == [
        "Prefill: 1200/10000 (12%), 20 steps/s, 0:07:20 left",  # after 10 s
        "Prefill: 1600/10000 (16%), 20 steps/s, 0:07:00 left",  # 20 s later
        "Prefill: 2400/10000 (24%), 20 steps/s, 0:06:20 left",  # 40 s later
    ]
    bar.close(finished=True)
    assert lines[-1] == "Prefill done: 3000/10000 (30%) in 0:01:40, 20 steps/s"


def test_a_run_of_days_gets_a_line_every_ten_minutes():
    bar, lines, clock = plain_bar(total=10**6)
    for _ in range(24 * 60):
        clock.now += 60
        bar.advance(1)
    assert 24 * 6 <= len(lines) <= 24 * 6 + 12


def test_work_of_unknown_length_is_counted():
    bar, lines, clock = plain_bar(unit="episodes")
    clock.now += 11
    bar.advance(22)
    bar.close(finished=True)
    assert lines == [
        "Prefill: 0 episodes",
        "Prefill: 22 episodes, 2 episodes/s",
        "Prefill done: 22 episodes in 0:00:11, 2 episodes/s",
    ]


def test_nothing_to_do_and_no_progress_divide_by_nothing():
    bar, lines, clock = plain_bar(total=0)
    clock.now += 20
    bar.advance(0)
    bar.close(finished=True)
    assert lines[-1] == "Prefill done: 0/0 in 0:00:20"


def test_an_exception_passes_through_and_is_not_called_done(capsys):
    with pytest.raises(KeyError), progress("Training", total=10) as bar:
        bar.advance(3)
        raise KeyError
    assert "Training stopped: 3/10 (30%) in 0:00:00" in capsys.readouterr().out


def test_a_terminal_shows_a_bar_with_count_and_time_left():
    console = terminal()
    with progress("Training [x]", total=200, start=50, console=console) as bar:
        bar.advance(150)
    text = console.file.getvalue()
    assert "Training [x]" in text
    assert "200/200" in text
    assert "left" in text
    assert "━" in text


def test_prints_appear_above_the_bar_whole(capsys):
    console = terminal()
    with progress("Training", total=2, console=console):
        print("[      400] loss 0.5")
    text = console.file.getvalue()
    assert text.index("[      400] loss 0.5\n") < text.rindex("Training")


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console = terminal()
    with progress("Training [x]", total=2, console=console) as bar:
        bar.advance(2)
    assert console.file.getvalue().startswith("Training [x]: 0/2 (0%)\n")


def test_one_bar_inside_another_works():
    console = terminal()
    with progress("Training", total=2, console=console) as outer:
        with progress("Evaluation", total=1, console=console) as inner:
            inner.advance()
        outer.advance(2)
    text = console.file.getvalue()
    assert "Evaluation" in text
    assert "Training" in text
    assert (outer.count, inner.count) == (2, 1)


def test_rates_are_readable():
    assert format_rate(0.123) == "0.12"
    assert format_rate(812.4) == "812"
