"""Shared by all tests: one vLLM engine for the whole session, around the shipped reasoner."""

from __future__ import annotations

import pytest

from clearopt.serving import Engine


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The shipped reasoner in vLLM; half a minute to set up, then fractions of a second a test."""
    return Engine("reasoner")
