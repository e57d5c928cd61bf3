"""When a solve ends: the deadline itself, and who hears Ctrl-C."""

import math
import signal
import threading
import time

import pytest

from clearopt.deadline import INTERRUPT, NEVER, TIME_LIMIT, Deadline, listening


def test_a_deadline_is_over_when_its_seconds_are():
    assert Deadline(0.0).over
    assert Deadline(-1.0).left == 0.0
    assert Deadline(0.0).reason == TIME_LIMIT
    far = Deadline(1e6)
    assert not far.over
    assert far.limited
    assert 0 < far.left <= 1e6


def test_without_a_limit_it_is_never_over():
    for deadline in (Deadline(), Deadline(None), NEVER):
        assert not deadline.over
        assert not deadline.limited
        assert deadline.left == math.inf
        assert deadline.part(0.3).left == math.inf


def test_a_part_ends_no_later_than_the_whole():
    whole = Deadline(100.0)
    assert whole.within(1e9).left <= 100.0
    assert whole.part(0.5).left <= 50.0
    assert whole.extended(1.0).left > 99.0
    assert Deadline(0.0).extended(100.0).left > 99.0


def test_the_first_press_is_heard_and_the_second_raises():
    with listening() as interrupt:
        deadline = Deadline(100.0)
        later = deadline.within(50.0)
        assert not deadline.over
        signal.raise_signal(signal.SIGINT)
        assert interrupt.pressed
        assert deadline.over
        assert deadline.left == later.left == 0.0
        assert later.reason == INTERRUPT
        assert not deadline.extended(10.0).over
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_listens_inside_shares_the_ear_outside():
    with listening() as outer:
        with listening() as inner:
            signal.raise_signal(signal.SIGINT)
        assert inner is outer
        assert Deadline().over
    assert not Deadline().over
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_error_inside_gives_the_handler_back():
    with pytest.raises(ZeroDivisionError), listening():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_else_is_left_alone():
    calls = []
    own = lambda number, frame: calls.append(number)  # noqa: E731
    before = signal.signal(signal.SIGINT, own)
    try:
        with listening() as interrupt:
            assert signal.getsignal(signal.SIGINT) is own
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]
    assert not interrupt.pressed


def test_other_threads_do_not_listen():
    found = {}

    def work():
        with listening() as interrupt:
            found["handler"] = signal.getsignal(signal.SIGINT)
            found["over"] = Deadline().over
            found["interrupt"] = interrupt

    with listening() as interrupt:
        signal.raise_signal(signal.SIGINT)
        handler = signal.getsignal(signal.SIGINT)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found["handler"] is handler
    assert interrupt.pressed
    assert not found["over"]
    assert found["interrupt"] is not interrupt


def test_spent_grows():
    deadline = Deadline(5.0)
    before = deadline.spent
    time.sleep(0.001)
    assert deadline.spent > before
