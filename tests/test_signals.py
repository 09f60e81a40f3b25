"""A signal takes effect when the loop asks, and a second Ctrl-C at once."""

import os
import signal
import sys

import pytest

from dreamerv2.common.signals import Stopped, StopSignals


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
