"""Every registered back-end passes the suite of `clearopt.testing`; none is left out in silence."""

import pytest

import clearopt as co
from clearopt import testing

# Not installable where the tests run: name -> why. Anything else that is missing is a failure.
NOT_HERE: dict[str, str] = {}

# Defects known and open: (back-end, check) -> what is wrong. Each is held to still be there, so
# that an entry goes when its defect does.
DEFECTS: dict[tuple[str, str], str] = {}

SOLVERS = [name for name in co.solvers() if name not in NOT_HERE]
CASES = [(solver, check) for solver in SOLVERS for check in testing.checks()]


@pytest.mark.parametrize("name", SOLVERS)
def test_it_is_installed(name):
    info = co.solvers()[name]
    assert info.installed, f"{name} is not tested here; {info.install}"


@pytest.mark.parametrize(("solver", "check"), CASES, ids=[f"{s}-{c}" for s, c in CASES])
def test_it_conforms(solver, check):
    known = DEFECTS.get((solver, str(check)))
    if known is None:
        check(solver)
    else:
        assert check.run(solver).result == "failed", f"mended; take it off the list: {known}"


def test_the_defects_are_of_checks_that_exist():
    names = {str(check) for check in testing.checks()}
    assert {check for _, check in DEFECTS} <= names
    assert {solver for solver, _ in DEFECTS} <= set(SOLVERS)


@pytest.mark.parametrize("name", SOLVERS)
def test_what_certifies_the_optimum_is_held_to_it(name):
    """A back-end cannot pass by taking nothing: so many of the known optima apply to it."""
    info = co.solvers()[name]
    from clearopt.solvers.capabilities import missing_features
    from clearopt.testing.instances import INSTANCES

    taken = [i for i in INSTANCES if not missing_features(i.declare(), info.supports)]
    assert len(taken) >= 8, [i.name for i in taken]
