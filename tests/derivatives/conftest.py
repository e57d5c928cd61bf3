"""Shared by the tests of derivatives."""

import jax
import pytest


@pytest.fixture
def quick_compilation():
    """XLA compiles without its optimisations: a third faster, where a test compiles for seconds.

    What is compiled as users have it is held against a solver in the tests without this.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
