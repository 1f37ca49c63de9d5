"""Signal handlers: what they remember, and what is left when they are gone."""

import os
import signal
import threading
from unittest.mock import call, patch

import pytest

from slowfast_uniformer.distributed import signals


@pytest.mark.parametrize("launched", [False, True])
def test_handlers_after_an_interruption(monkeypatch, launched):
    """Where srun or torchrun has started the process, their SIGTERM must not replace its exit code."""
    for name in [name for name in os.environ if name.startswith("SLURM") or name == "RANK"]:
        monkeypatch.delenv(name)
    if launched:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "1")
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with pytest.raises(signals.Interrupted), signals.handle_signals():
        assert not signals.stop_requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.stop_requested()
        signals.raise_if_any([False, signals.stop_requested()])
    after = dict(zip(signals.SIGNALS, before, strict=True))
    if launched:
        after[signal.SIGTERM] = signal.SIG_IGN
    assert {number: signal.getsignal(number) for number in signals.SIGNALS} == after
    assert not signals.stop_requested()


def test_a_signal_between_two_blocks_is_known_in_the_next_one():
    """As between the folds of a cross-validation, which one block contains."""
    with signals.handle_signals():
        with signals.handle_signals():
            assert not signals.stop_requested()
        os.kill(os.getpid(), signal.SIGUSR1)
        with signals.handle_signals():
            assert signals.stop_requested()
        assert signals.stop_requested()
    assert not signals.stop_requested()


def test_a_handler_that_python_did_not_install_is_left_alone(monkeypatch):
    """`signal.signal` returns None for it, and does not take None."""
    set_handler = signal.signal
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with monkeypatch.context() as patched:
        patched.setattr(signal, "signal", lambda number, handler: set_handler(number, handler) and None)
        with signals.handle_signals():
            pass
    for number, handler in zip(signals.SIGNALS, before, strict=True):
        signal.signal(number, handler)


def test_a_second_signal_is_not_caught():
    with signals.handle_signals(), patch("os.kill") as kill_again, patch.object(signals, "_REPEAT", 0.0):
        signals._on_signal(signal.SIGTERM, None)
        signals._on_signal(signal.SIGTERM, None)
        # Not of this process alone: finalizers of other tests may end their processes meanwhile.
        assert kill_again.call_args_list.count(call(os.getpid(), signal.SIGTERM)) == 1
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_blocked_signals_arrive_at_the_end_of_the_block():
    with signals.handle_signals():
        with signals.block_signals():
            # To this thread: another one, which a test before may have left, would take what is for the process.
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            assert not signals.stop_requested()
        assert signals.stop_requested()
