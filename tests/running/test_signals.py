"""A signal takes effect when the loop asks, and a second Ctrl-C at once;
who reads the output may leave."""

import io
import os
import signal
import sys

import pytest

from dreamerv2.common.outputs.progress import progress
from dreamerv2.common.outputs.stdout import print_anything
from dreamerv2.running.signals import Stopped, StopSignals


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_only_takes_effect_at_the_next_check(number, code, capsys):
    with StopSignals() as stop:
        stop.check()
        send(number)
        print("The step is finished.")
        with pytest.raises(Stopped) as stopped:
            stop.check()
    assert stopped.value.code == code
    assert str(stopped.value) == f"Stopped by {signal.Signals(number).name}."
    out = capsys.readouterr().out
    assert out.index("saving after this step") < out.index("The step is finished.")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_interrupts_at_once(first):
    with StopSignals():
        send(first)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_second_sigterm_still_waits_for_the_save():
    with StopSignals() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()


def test_a_check_takes_what_callbacks_of_a_driver_get():
    with StopSignals() as stop:
        stop.check({"reward": 0.0}, worker=1)


@pytest.fixture
def unread():
    """A stream of text that nobody reads."""
    end, start = os.pipe()
    os.close(end)
    with os.fdopen(start, "w") as stream:
        yield stream


def test_output_that_nobody_reads_counts_as_a_signal(unread, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", unread)
    with StopSignals() as stop:
        print("lost", flush=True)
        print("lost, too", flush=True)
        with pytest.raises(Stopped, match="SIGPIPE") as stopped:
            stop.check()
    assert stopped.value.code == 141
    assert sys.stdout is unread
    print("and so is this", flush=True)
    assert capsys.readouterr().err == (
        "Nobody reads the output any more: saving after this step.\n"
    )


def test_ctrl_c_that_ends_the_reader_too_still_waits_for_the_save(unread, monkeypatch):
    monkeypatch.setattr(sys, "stdout", unread)
    monkeypatch.setattr(sys, "stderr", unread)
    with StopSignals() as stop:
        send(signal.SIGINT)
        print("The step is finished.", flush=True)
        with pytest.raises(Stopped, match="SIGINT"):
            stop.check()


def test_output_that_was_closed_before_the_program_began_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with StopSignals() as stop, progress("Train", total=2) as bar:
        bar.advance(2)
        stop.check()
    assert bar.count == 2 and sys.stdout is None


def test_an_error_of_the_output_that_is_no_lost_reader_is_raised(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with StopSignals() as stop, pytest.raises(OSError, match="No space"):
            print("much", flush=True)
        stop.check()
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # To be closed.


def test_characters_that_the_encoding_lacks_are_printed_as_question_marks(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, "ascii"))
    print_anything()
    print("L\u00e5ng \udcc3", flush=True)
    assert content.getvalue() == b"L?ng ?\n"


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in StopSignals.SIGNALS]
    with pytest.raises(ValueError), StopSignals():
        assert [signal.getsignal(n) for n in StopSignals.SIGNALS] != before
        raise ValueError
    assert [signal.getsignal(number) for number in StopSignals.SIGNALS] == before


def test_a_signal_in_the_middle_of_a_print_is_not_lost(monkeypatch):
    class Busy:
        def write(self, text):
            raise RuntimeError("reentrant call")

        def flush(self):
            pass

    with StopSignals() as stop:
        with monkeypatch.context() as context:
            context.setattr(sys, "stdout", Busy())
            send(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()
