"""Shared by all tests: one vLLM engine for the whole session, and Ctrl-C as Python has it."""

from __future__ import annotations

import signal

import pytest

from clearopt.serving import Engine


def pytest_configure() -> None:
    """A shell starts its background jobs with SIGINT ignored; tests of Ctrl-C need it heard."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The shipped reasoner in vLLM; half a minute to set up, then fractions of a second a test."""
    return Engine("reasoner")
