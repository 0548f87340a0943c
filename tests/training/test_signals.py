import signal

from gpt.training.signals import stop_signals


def test_signals_close_together_are_one_wish_to_stop_and_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as received:
        signal.raise_signal(signal.SIGINT)  # from the terminal
        signal.raise_signal(signal.SIGTERM)  # and from the launcher
        assert received == [signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is before
