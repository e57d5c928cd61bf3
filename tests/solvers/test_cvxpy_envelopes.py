"""Envelopes as CVXPY gets them: cones and pieces are the envelope itself, and tangents agree."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import clearopt as co
from clearopt.errors import UnsupportedProblemError
from clearopt.solvers import SolveOptions
from clearopt.solvers.cvxpy_cones import Cones
from clearopt.solvers.cvxpy_cuts import first_tangents, is_piecewise_linear
from clearopt.solvers.cvxpy_model import Run
from clearopt.solvers.cvxpy_relaxation import Relaxed, relax
from clearopt.solvers.relaxation import concave_envelope, implied_bounds

N = 12
Made = Callable[[np.random.Generator], co.Utility]


def _saturating(rng: np.random.Generator) -> co.Utility:
    rate = 10 ** rng.uniform(-2, 0, N)
    return co.SaturatingExponential(rng.uniform(0.3, 1, N), rng.uniform(0, 40, N), rate)


def _table(rng: np.random.Generator) -> co.Utility:
    grid = np.cumsum(rng.uniform(1, 20, (N, 7)), axis=1)
    return co.Tabulated(grid, rng.uniform(0, 1, (N, 7)))


CONES: dict[str, Made] = {
    "saturating": _saturating,
    "best of n": lambda rng: co.BestOfN(rng.uniform(0.02, 0.9, N), rng.uniform(1, 20, N)),
    "quadratic": lambda rng: co.Quadratic(
        rng.uniform(0.3, 1, N), rng.uniform(0, 40, N), rng.uniform(10, 200, N)
    ),
    "Hill of power 1": lambda rng: co.Hill(rng.uniform(0.3, 1, N), rng.uniform(1, 60, N), 1.0),
    "Hill of powers up to 1": lambda rng: co.Hill(
        rng.uniform(0.3, 1, N), rng.uniform(1, 60, N), np.append(1.0, rng.uniform(0.3, 1, N - 1))
    ),
}
PIECES: dict[str, Made] = {
    "triangular": lambda rng: co.Triangular(
        rng.uniform(0.3, 1, N), rng.uniform(0, 40, N), rng.uniform(10, 200, N)
    ),
    "measured": _table,
    "measured steps": lambda rng: co.Tabulated(
        np.cumsum(rng.uniform(1, 20, (N, 7)), axis=1), rng.uniform(0, 1, (N, 7)), "step"
    ),
}
BENT: dict[str, Made] = {
    "cumulative surge": lambda rng: co.CumulativeSurge(
        rng.uniform(0.3, 1, N), rng.uniform(0, 40, N), 10 ** rng.uniform(-2, 0, N)
    ),
    "shifted surge": lambda rng: co.ShiftedSurge(
        rng.uniform(0.3, 1, N), rng.uniform(0, 40, N), 10 ** rng.uniform(-2, 0, N)
    ),
    "logistic": lambda rng: co.Logistic(
        rng.uniform(0.3, 1, N), rng.uniform(0, 40, N), 10 ** rng.uniform(-2, 0, N)
    ),
    "Hill of powers above 1": lambda rng: co.Hill(
        rng.uniform(0.3, 1, N), rng.uniform(1, 60, N), rng.uniform(1.2, 4, N)
    ),
}
EVERY = CONES | PIECES | BENT


def boxes(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lower = np.where(rng.random(N) < 0.5, 0.0, rng.uniform(0, 50, N))
    return lower, lower + 10 ** rng.uniform(1.5, 2.5, N)


def declared(family: co.Utility, rng: np.random.Generator, *, kind: int = 0) -> co.Problem:
    """A problem over a family, by `kind` with lower bounds, holes, weights, rows and floors."""
    lower, upper = boxes(rng) if kind % 2 else (np.zeros(N), np.full(N, 300.0))
    holes = kind == 2
    if holes:
        lower = rng.uniform(1, 30, N)
    tokens = co.Allocation(N, lower=lower, upper=upper, semicontinuous=holes)
    accuracy = family(tokens)
    weight = rng.uniform(0.2, 3, N) if kind else np.ones(N)
    least = 0.0 if holes else float(lower.sum())
    budget = least + 0.2 * float((upper - lower).sum())
    rows = [(co.sum(tokens) <= budget).named("budget")]
    if kind >= 2:
        dear = rng.uniform(0.5, 2, N)
        rows.append((dear @ tokens <= least * 2 + 0.9 * budget).named("memory"))
    if kind == 3:
        ample = co.Problem(co.Maximize(co.sum(accuracy)), rows).solve()
        rows.append((co.sum(accuracy) >= 0.9 * ample.objective).named("floor"))
        rows.append((co.sum(tokens[:4]) >= float(lower[:4].sum()) + 5.0).named("service"))
    return co.Problem(co.Maximize(weight @ accuracy), rows)


def relaxed(problem: co.Problem, *, cones: bool, most_models: int = 40) -> Relaxed:
    program = problem.program
    run = Run("CLARABEL", SolveOptions(tolerance=1e-8), math.inf, cones=cones)
    envelope = concave_envelope(program, *implied_bounds(program))
    found = relax(program, envelope, run)
    assert not found.message
    assert run.models <= most_models
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CONES)
def test_a_cone_form_is_the_envelope(name: str, seed: int) -> None:
    """The most utility that the model allows at given tokens, against the envelope in NumPy."""
    import cvxpy

    rng = np.random.default_rng([31, seed])
    program = declared(CONES[name](rng), rng, kind=(0, 1, 2)[seed]).program
    lower, upper = implied_bounds(program)
    envelope = concave_envelope(program, lower, upper)
    cones = Cones(envelope)
    assert cones.exact.sum() >= N // 2  # some boxes end before there is a curve, or after it
    step = np.maximum(envelope.upper - envelope.lower, 1e-9)
    for share in (0.02, 0.3, 0.7, 1.0):
        tokens = lower + share * (upper - lower)
        taken, utility = cvxpy.Variable(N), cvxpy.Variable(N)
        held = [taken == (tokens - lower) / step]
        limits = cones.constraints(cvxpy, utility, taken, step) + held
        most = cvxpy.Maximize(cones.exact.astype(float) @ utility)
        cvxpy.Problem(most, limits).solve(solver="CLARABEL")
        expected = envelope.value(tokens)
        np.testing.assert_allclose(
            utility.value[cones.exact], expected[cones.exact], rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", PIECES)
def test_the_pieces_are_the_envelope(name: str, seed: int) -> None:
    rng = np.random.default_rng([32, seed])
    program = declared(PIECES[name](rng), rng, kind=seed % 3).program
    lower, upper = implied_bounds(program)
    envelope = concave_envelope(program, lower, upper)
    assert is_piecewise_linear(envelope).all()
    pieces = first_tangents(envelope)
    for share in np.linspace(0, 1, 101):
        tokens = lower + share * (upper - lower)
        least = np.full(N, np.inf)
        lines = pieces.height + pieces.slope * (tokens - lower)[pieces.query]
        np.minimum.at(least, pieces.query, lines)
        np.testing.assert_allclose(least, envelope.value(tokens), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("name", EVERY)
def test_cones_pieces_and_tangents_prove_the_same(name: str, kind: int) -> None:
    rng = np.random.default_rng([33, kind])
    problem = declared(EVERY[name](rng), rng, kind=kind)
    exact, tangents = (relaxed(problem, cones=cones) for cones in (True, False))
    if name not in CONES:
        assert exact.in_cones == 0
    elif kind != 1:  # boxes may end before there is a curve
        assert exact.in_cones == N
    assert tangents.in_cones == 0
    size = abs(tangents.bound)
    assert exact.bound == pytest.approx(tangents.bound, rel=1e-6)
    # What the model reached on the true envelopes is what it proves.
    assert abs(exact.value - exact.bound) <= 1e-6 * size
    assert exact.bound >= problem.solve(tolerance=1e-4).objective - 1e-9 * size


@pytest.mark.parametrize("name", CONES | PIECES)
def test_one_model_is_enough_where_all_is_exact(name: str) -> None:
    rng = np.random.default_rng(34)
    found = relaxed(declared(EVERY[name](rng), rng), cones=True, most_models=1)
    assert found.bound - found.value <= 1e-7 * found.bound


@pytest.mark.parametrize("solver", ["HIGHS", "SCS"])
def test_a_solver_without_the_cones_gets_tangents(solver: str) -> None:
    rng = np.random.default_rng(35)
    problem = declared(_saturating(rng), rng)
    best = problem.solve("cvxpy")
    other = problem.solve("cvxpy", cvxpy_solver=solver)
    assert (other.statistics["in_cones"] == 0) == (solver == "HIGHS")
    assert other.bound == pytest.approx(best.bound, rel=1e-6 if solver == "HIGHS" else 1e-3)
    assert other.bound >= best.objective * (1 - 1e-9)


def test_families_without_a_form_say_so() -> None:
    rng = np.random.default_rng(36)
    for name, made in EVERY.items():
        family = made(rng).broadcast(N)
        assert family.has_cone_form.shape == (N,)
        assert family.has_cone_form.all() == (name in CONES)
        assert (family.concave_hull(np.zeros(N), np.full(N, 99.0)).corners is None) == (
            name not in PIECES
        )
    with pytest.raises(UnsupportedProblemError, match="CumulativeSurge has no form in cones"):
        co.CumulativeSurge(0.5, 10, 0.1).cone_form(None, None)


def test_an_unknown_way_is_refused() -> None:
    rng = np.random.default_rng(37)
    with pytest.raises(co.DeclarationError, match="envelopes = 'cones': must be 'exact' or"):
        declared(_saturating(rng), rng).solve("cvxpy", envelopes="cones")
