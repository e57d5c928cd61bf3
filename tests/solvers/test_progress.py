"""Progress: silent off a terminal, log lines where asked for."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import random_instance
from test_dual import declare

from clearopt.solvers.progress import Ticker


def test_nothing_is_shown_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with Ticker("dual") as ticker:
        ticker._due = 0.0  # as if it had taken long
        ticker.tell(1, 1.0, 2.0)
        ticker.tell(2, 1.0, 2.0)
    assert capfd.readouterr() == ("", "")


def test_verbose_prints_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with Ticker("dual", verbose=True) as ticker:
        ticker.tell(3, 1.0, 2.0)
    assert "dual: 0.0 s, 3 nodes, objective 1, bound 2, gap 5.0e-01" in capfd.readouterr().out


def test_a_solve_is_silent_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    problem = declare(random_instance(np.random.default_rng(8), 6), whole=False)
    problem.solve()
    assert capfd.readouterr() == ("", "")
