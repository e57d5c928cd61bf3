"""Is this back-end right? A suite that every back-end is held to, and a checker of solutions.

    import clearopt.testing as testing

    print(testing.check_backend(MyBackend()))   # one line a check; raises if one fails
    testing.check_solution(problem, solution)   # recomputes everything a solution claims

In a test file of your own, one test a check:

    @pytest.mark.parametrize("check", testing.checks(), ids=str)
    def test_conforms(check):
        check(MyBackend())
"""

from __future__ import annotations

from clearopt.errors import NonconformingBackendError, WrongSolutionError
from clearopt.solvers import Backend
from clearopt.testing.checker import Fault, Findings, check_solution, inspect_solution
from clearopt.testing.checks import checks
from clearopt.testing.report import Check, Config, Outcome, Report, run_checks

__all__ = [
    "Check",
    "Config",
    "Fault",
    "Findings",
    "NonconformingBackendError",
    "Outcome",
    "Report",
    "WrongSolutionError",
    "check_backend",
    "check_solution",
    "checks",
    "inspect_solution",
]


def check_backend(backend: str | Backend, config: Config | None = None) -> Report:
    """Run every check on a back-end.

    Args:
        backend: an instance, or the name of a registered one.
        config: tolerance, time limit, checks to leave out and why.

    Returns:
        The report: printed, one line a check, passed, not applicable because the back-end does not
        declare what it is about, or excluded by `config`.

    Raises:
        NonconformingBackendError: a check failed; the message is the whole report.
    """
    report = run_checks(backend, checks(), config)
    if not report.ok:
        raise NonconformingBackendError(str(report))
    return report
