"""What every family must answer, checked alike for the surges, the other closed forms and tables.

Each case has its own plain formula here, written without the package's mathematics; everything
else is compared with brute force over amounts, automatic differentiation or SciPy.
"""

import itertools
import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import erfc

import clearopt as co
from clearopt.solvers.relaxation import concave_envelope

EPS = np.finfo(float).eps
M = 40  # members of each family


def positive(x):
    return np.maximum(x, 0.0)


def hill(b, a, k, h):
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(b > 0, a / (1 + (k / b) ** h), 0.0)


def lognormal(b, a, median, s):
    with np.errstate(divide="ignore"):
        return 0.5 * a * erfc(-np.log(np.asarray(b) / median) / (s * np.sqrt(2)))


def triangular(b, a, tau, w):
    return a * positive(1 - np.abs(positive(b - tau) - w / 2) / (w / 2))


def quadratic(b, a, tau, w):
    x = positive(b - tau)
    return np.where(x < w, 4 * a * x * (w - x) / w**2, 0.0)


@dataclass(frozen=True)
class Case:
    """A family, random parameters of it, and its value at amounts for one member's parameters."""

    family: type
    draw: object
    plain: object
    smooth: bool = True
    options: tuple = ()

    def utility(self, m=M, seed=0):
        rng = np.random.default_rng(seed)
        return self.family(*self.draw(rng, m), *self.options)


def scale(rng, m):
    return rng.uniform(0.05, 1.0, m)


def threshold(rng, m):
    return rng.choice([0.0, 1.0, 7.3, 30.0], m)


def rate(rng, m):
    return 10 ** rng.uniform(-1.5, 0.3, m)


def surge(rng, m):
    return scale(rng, m), threshold(rng, m), rate(rng, m)


def hump(rng, m):
    return scale(rng, m), threshold(rng, m), 10 ** rng.uniform(0.3, 2.0, m)


def table(rng, m, points=7):
    grid = np.cumsum(rng.choice([0.25, 1.0, 3.0, 4.75, 12.0], (m, points)), axis=1)
    values = np.where(rng.random((m, 1)) < 0.4, np.sort(rng.random((m, points))), 0.0)
    return grid, np.where(values.any(axis=1, keepdims=True), values, rng.random((m, points)))


CASES = {
    "shifted surge": Case(
        co.ShiftedSurge,
        surge,
        lambda b, a, t, r: a * r * positive(b - t) * np.exp(1 - r * positive(b - t)),
    ),
    "cumulative surge": Case(
        co.CumulativeSurge,
        surge,
        lambda b, a, t, r: a * (1 - (1 + r * positive(b - t)) * np.exp(-r * positive(b - t))),
    ),
    "logistic": Case(
        co.Logistic, surge, lambda b, a, mid, r: a / (1 + np.exp(-r * (np.asarray(b) - mid)))
    ),
    "hill": Case(
        co.Hill,
        lambda rng, m: (scale(rng, m), 10 ** rng.uniform(0, 1.7, m), rng.uniform(1.05, 6, m)),
        hill,
    ),
    "hill, concave": Case(
        co.Hill,
        lambda rng, m: (
            scale(rng, m),
            10 ** rng.uniform(0, 1.7, m),
            rng.choice([0.4, 0.9, 1.0], m),
        ),
        hill,
    ),
    "lognormal": Case(
        co.Lognormal,
        lambda rng, m: (scale(rng, m), 10 ** rng.uniform(0, 1.7, m), 10 ** rng.uniform(-1, 0.2, m)),
        lognormal,
    ),
    "saturating exponential": Case(
        co.SaturatingExponential, surge, lambda b, a, t, r: a * (1 - np.exp(-r * positive(b - t)))
    ),
    "best of n": Case(
        co.BestOfN,
        lambda rng, m: (rng.choice([0.0, 0.02, 0.3, 0.9], m), rng.choice([1.0, 2.5, 20.0], m)),
        lambda b, p, c, _: 1 - (1 - p) ** (np.asarray(b) / c),
    ),
    "triangular": Case(co.Triangular, hump, triangular, smooth=False),
    "quadratic": Case(co.Quadratic, hump, quadratic),
    "linear table": Case(
        co.Tabulated, table, lambda b, g, v: np.interp(b, g, v), smooth=False, options=("linear",)
    ),
    "step table": Case(
        co.Tabulated,
        table,
        lambda b, g, v: v[np.searchsorted(g, b, side="right") - 1],
        smooth=False,
        options=("step",),
    ),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
smooth = pytest.mark.parametrize(
    "case",
    [c for c in CASES.values() if c.smooth],
    ids=[name for name, c in CASES.items() if c.smooth],
)


def one(utility, member):
    """The member alone, as a family that takes any number of amounts."""
    return utility.take(slice(member, member + 1))


def kinks(utility, member):
    """Amounts where the curve may bend or jump, of tables."""
    return np.asarray(utility.grid[member]) if isinstance(utility, co.Tabulated) else np.zeros(0)


# ------------------------------------------------------------------ value and slope
@every
def test_value_is_the_plain_formula(case):
    utility = case.utility()
    amounts = np.concatenate([[0.0], np.geomspace(1e-3, 400, 120), np.arange(60.0)])
    for member in range(M):
        b = np.concatenate([amounts, kinks(utility, member)])
        plain = case.plain(b, *(np.asarray(p)[member] for p in utility.parameters))
        np.testing.assert_allclose(one(utility, member).value(b), plain, rtol=1e-11, atol=1e-14)


@every
def test_marginal_is_the_derivative_and_both_can_be_traced(case):
    utility = case.utility()
    amounts = np.random.default_rng(3).uniform(0.01, 90.0, M)  # almost surely off the kinks
    with jax.enable_x64(True):
        gradient = jax.grad(lambda b: utility.value_at(utility.excess_of(b)).sum())
        slopes = np.asarray(gradient(jnp.asarray(amounts)))
        excess = jnp.asarray(utility.excess_of(amounts))
        value, marginal = jax.jit(lambda x: (utility.value_at(x), utility.marginal_at(x)))(excess)
    size = 1e-12 * np.asarray(utility.value(amounts)) + 1e-15
    assert (np.abs(utility.marginal(amounts) - slopes) <= 1e-10 * np.abs(slopes) + size).all()
    np.testing.assert_allclose(utility.value(amounts), value, rtol=1e-13, atol=1e-15)
    with np.errstate(all="ignore"):
        plain = utility.marginal_at(utility.excess_of(amounts))
    np.testing.assert_allclose(plain, marginal, rtol=1e-12, atol=1e-15)


@every
def test_it_is_concave_between_inflection_and_saturation_and_never_higher_after(case):
    utility = case.utility()
    origin = np.asarray(utility.origin)
    bend = origin + np.asarray(utility.inflection_excess)
    peak = np.minimum(origin + np.asarray(utility.saturation_excess), 1e4)
    for member in range(M):
        curve = one(utility, member)
        at = np.linspace(bend[member], max(peak[member], bend[member]), 101)
        values = curve.value(at)
        assert (2 * values[1:-1] >= values[:-2] + values[2:] - 1e-12).all()
        later = np.concatenate([peak[member] + np.geomspace(1e-3, 1e3, 50), kinks(utility, member)])
        later = np.sort(later[later >= peak[member]])
        if later[0] < 1e4:
            assert (np.diff(curve.value(later)) <= 1e-12).all()


@smooth
def test_at_the_stationary_point_the_marginal_is_the_price(case):
    utility = case.utility()
    top = np.asarray(utility.greatest_marginal)
    top = np.where(np.isinf(top), 1.0, top)
    for fraction in [1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-6]:
        price = fraction * top
        with np.errstate(all="ignore"):
            excess = utility.stationary_excess(price)
            slope = utility.marginal_at(excess)
        assert (excess >= np.asarray(utility.inflection_excess) * (1 - 1e-12)).all()
        paying = top > 0
        # Near the peak of a hump the marginal is a difference: absolute there.
        allowed = 1e-12 * price + 1e-13 * top
        assert (np.abs(slope - price) <= allowed)[paying].all(), fraction


# ------------------------------------------------------------------ best responses
def random_box(rng, m, *, whole):
    lower = rng.uniform(0, 40, m) * (rng.random(m) < 0.6)
    upper = lower + rng.choice([0.0, 3.0, 30.0, 120.0], m) * rng.random(m)
    return (np.floor(lower), np.ceil(upper)) if whole else (lower, upper)


@every
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("whole", [False, True])
def test_best_response_against_all_amounts(case, sign, whole):
    utility = case.utility()
    rng = np.random.default_rng([7, int(sign > 0), int(whole)])
    for semicontinuous in (False, True, False):
        weight, price = rng.uniform(0.2, 3.0, M), sign * 10 ** rng.uniform(-5, 0, M)
        price[rng.random(M) < 0.1] = 0.0
        weight[rng.random(M) < 0.1] = 0.0
        lower, upper = random_box(rng, M, whole=whole)
        least = None
        if semicontinuous:
            least = np.where(lower == 0, np.ceil(rng.uniform(0, 20, M)), 0.0)
            upper = np.maximum(upper, least)
        integer = np.ones(M, dtype=bool) if whole else None
        with np.errstate(all="ignore"):
            answer = utility.best_response(weight, price, lower, upper, integer, least)
        for i in range(M):
            floor = lower[i] if least is None else max(lower[i], least[i])
            menu = np.arange(floor, upper[i] + 1) if whole else np.linspace(floor, upper[i], 1000)
            if not whole:
                bends = kinks(utility, i)
                bends = np.concatenate([bends, np.nextafter(bends, -1)])
                menu = np.concatenate([menu, bends[(bends >= floor) & (bends <= upper[i])]])
            menu = np.append(menu, lower[i])
            gain = weight[i] * one(utility, i).value(menu) - price[i] * menu
            tokens = answer.tokens[i]
            assert tokens == lower[i] or floor <= tokens <= upper[i]
            assert not whole or tokens == np.floor(tokens)
            assert answer.gain[i] >= gain.max() - 1e-12 * (1 + np.abs(gain).max())
            own = weight[i] * one(utility, i).value(tokens)[0] - price[i] * tokens
            assert answer.gain[i] == pytest.approx(own, rel=1e-9, abs=1e-12)
            assert answer.utility[i] == pytest.approx(one(utility, i).value(tokens)[0], abs=1e-12)


@every
@pytest.mark.parametrize("whole", [False, True])
def test_best_response_traced_by_jax(case, whole):
    utility = case.utility()
    rng = np.random.default_rng(5)
    weight, price = rng.uniform(0.2, 3.0, M), 10 ** rng.uniform(-5, 0, M)
    lower, upper = random_box(rng, M, whole=whole)
    integer = rng.random(M) < 0.5 if whole else None
    with np.errstate(all="ignore"):
        plain = utility.best_response(weight, price, lower, upper, integer)
    with jax.enable_x64(True):
        kind, columns = utility.kind, [jnp.asarray(p) for p in utility.parameters]

        def traced(columns, *given):
            return tuple(kind.from_parameters(*columns).best_response(*given))

        given = [jnp.asarray(a) for a in (weight, price, lower, upper)]
        given.append(None if integer is None else jnp.asarray(integer))
        answer = [np.asarray(column) for column in jax.jit(traced)(columns, *given)]
    # Amounts may differ where two are equally good to rounding.
    np.testing.assert_allclose(answer[1], plain.gain, rtol=1e-11, atol=1e-13)
    same = np.isclose(answer[0], plain.tokens, rtol=1e-6, atol=1e-6)
    assert same.mean() > 0.9


@every
def test_ties_go_to_the_larger_amount(case):
    utility = case.utility()
    none, upper = np.zeros(M), np.full(M, 50.0)
    with np.errstate(all="ignore"):
        assert (utility.best_response(none, none, none, upper).tokens == 50.0).all()
        assert (utility.best_response(none, none + 1e-3, none, upper).tokens == 0.0).all()


@every
def test_demand_against_scipy(case):
    utility = case.utility(12)
    rng = np.random.default_rng(2)
    price = 10 ** rng.uniform(-4, -1, 12)
    tokens = utility.demand(price, 0.0, 100.0)
    for i in range(12):
        curve = one(utility, i)

        def loss(b, curve=curve, i=i):
            return float(price[i] * b - curve.value(b)[0])

        starts = np.linspace(0, 100, 41)
        found = [
            minimize_scalar(loss, bounds=(a, b), method="bounded").fun
            for a, b in itertools.pairwise(starts)
        ]
        best = min(*found, loss(0.0), loss(100.0))
        assert loss(tokens[i]) <= best + 1e-9


@every
def test_demand_falls_as_the_price_rises(case):
    utility = one(case.utility(), 4)
    demand = utility.demand(np.geomspace(1e-9, 10.0, 2000), 0.0, 90.0)
    assert (np.diff(demand) <= 0).all()


@every
@pytest.mark.parametrize("upper", [np.inf, 11.0])
def test_it_buys_just_below_the_break_even_price_and_nothing_just_above(case, upper):
    utility = case.utility()
    price = utility.break_even_price(upper)
    worth = np.isfinite(price) & (price > 0)
    assert worth.any() or case is CASES["hill, concave"]
    # Where the curve is steepest at 0 tokens the purchase just below is next to nothing.
    gradual = utility.break_even_tokens() == 0
    below = np.where(gradual, 0.9, 1 - 1e-9)
    finite = np.where(worth, price, 1.0)
    bought = utility.demand(finite * below, 0.0, upper)
    assert (bought[worth] > 0).all()
    nothing = utility.demand(finite * (1 + 1e-9), 0.0, upper)
    assert (nothing[worth] == 0).all()
    if np.isinf(upper):
        near = worth & ~gradual
        contact = utility.break_even_tokens()
        assert (bought[near] >= contact[near] * (1 - 1e-9)).all()
        rise = utility.value(contact) - utility.value(np.zeros(M))
        np.testing.assert_allclose(rise[near], price[near] * contact[near], rtol=1e-11)


# ------------------------------------------------------------------ envelope
def upper_hull(x, y):
    """The least concave non-decreasing function above the points, at x (ascending)."""
    y = np.maximum.accumulate(y)
    corners = []
    for k in range(x.size):
        while len(corners) > 1:
            i, j = corners[-2:]
            if (y[j] - y[i]) * (x[k] - x[i]) > (y[k] - y[i]) * (x[j] - x[i]):
                break
            corners.pop()
        corners.append(k)
    return np.interp(x, x[corners], y[corners])


@every
def test_the_concave_envelope_is_the_least_concave_function_above_the_curve(case):
    m = 30
    utility = case.utility(m)
    rng = np.random.default_rng(4)
    lower = np.where(rng.random(m) < 0.5, 0.0, rng.uniform(0, 20, m))
    upper = lower + rng.uniform(2, 90, m)
    tokens = co.Allocation(m, lower=lower, upper=upper)
    problem = co.Problem(
        co.Maximize(co.sum(utility(tokens))), [co.sum(tokens) <= float(upper.sum())]
    )
    envelope = concave_envelope(problem.program, lower, upper)
    share = np.linspace(0, 1, 1501)
    grid = lower[:, None] + share * (upper - lower)[:, None]
    steep = np.isinf(utility.marginal(lower))
    over = np.stack([envelope.value(column) for column in grid.T], axis=1)
    cuts = [envelope.cuts(envelope.excess(column)) for column in grid.T[::50]]
    for i in range(m):
        claimed = envelope.lower + envelope.offset
        claimed = [(claimed + envelope.contact)[i], (claimed + envelope.end)[i]]
        bends = np.concatenate([kinks(utility, i), claimed])
        inside = (bends > lower[i]) & (bends < upper[i])
        at = np.sort(np.concatenate([grid[i], bends[inside]]))
        hull = np.interp(grid[i], at, upper_hull(at, one(utility, i).value(at)))
        # An infinitely steep start is cut off a little above the curve.
        slack = 0.03 if steep[i] else 1e-5
        assert (over[i] >= hull - 1e-12).all()
        assert (over[i] <= hull + slack).all()
        for height, slope in cuts:
            line = height[i] + slope[i] * (grid[i] - lower[i])
            assert np.isfinite(slope[i])
            assert (line >= hull - 1e-11).all()


@every
def test_the_public_envelope_is_the_one_from_nothing(case):
    m = 30
    utility = case.utility(m)
    upper = np.random.default_rng(5).uniform(2, 90, m)
    for most in (upper, np.full(m, np.inf)):
        end = np.where(np.isinf(most), 400.0, most)
        grid = np.linspace(0, 1, 1501) * end[:, None]
        over = np.stack([utility.envelope(column, most) for column in grid.T], axis=1)
        for i in range(m):
            alone = one(utility, i)
            peak = alone.origin + alone.saturation_excess
            contact = np.r_[kinks(utility, i), alone.break_even_tokens(), peak]
            at = np.unique(np.r_[grid[i], contact[contact < end[i]]])
            hull = np.interp(grid[i], at, upper_hull(at, alone.value(at)))
            assert (over[i] >= alone.value(grid[i]) - 1e-13).all()
            np.testing.assert_allclose(over[i], hull, atol=2e-5)
            assert (np.diff(over[i]) >= -1e-13).all()
        beyond = utility.envelope(end + 10, end)
        np.testing.assert_allclose(beyond, utility.envelope(end, end), rtol=1e-13)
    for wrong in ({"tokens": -1.0}, {"tokens": 1.0, "upper": np.nan}):
        with pytest.raises(co.DeclarationError):
            utility.envelope(**wrong)


@every
def test_all_that_is_public_is_documented(case):
    for name in dir(case.family):
        if not name.startswith("_") and name not in case.family.__annotations__:
            member = getattr(case.family, name)
            if callable(member) or isinstance(member, property):
                assert member.__doc__, name


# ------------------------------------------------------------------ as members of a program
@every
def test_other_units_describe_the_same_curve(case):
    utility = case.utility()
    tokens = 2.0 ** np.random.default_rng(1).integers(-6, 7, M)
    other = utility.in_units(tokens, 0.125)
    assert other.kind == utility.kind
    for amount in (0.0, 0.7, 13.0, 45.5):
        b = np.full(M, amount)
        np.testing.assert_allclose(
            other.value(b / tokens), utility.value(b) / 0.125, rtol=1e-12, atol=1e-15
        )
    np.testing.assert_allclose(
        other.break_even_tokens(), utility.break_even_tokens() / tokens, rtol=1e-9
    )


@every
def test_broadcast_take_and_joining(case):
    utility = case.utility(6)
    again = utility.broadcast(6).take(np.array([4, 1]))
    b = np.full(2, 21.0)
    np.testing.assert_array_equal(again.value(b), utility.value(np.full(6, 21.0))[[4, 1]])
    single = one(utility, 2)
    shared = utility.kind.from_parameters(*(p[0] for p in single.parameters)).broadcast(3)
    np.testing.assert_array_equal(
        shared.value(np.full(3, 21.0)), single.value(np.full(1, 21.0)).repeat(3)
    )
    joined = utility.kind.from_parameters(
        *(np.concatenate([p, q]) for p, q in zip(utility.parameters, again.parameters, strict=True))
    )
    np.testing.assert_array_equal(
        joined.value(np.full(8, 9.0)),
        np.append(utility.value(np.full(6, 9.0)), again.value(np.full(2, 9.0))),
    )
    assert type(utility).__name__ in repr(utility)
    with pytest.raises(co.DeclarationError, match="6"):
        utility.broadcast(5)


@every
def test_the_exported_expression_is_the_value(case):
    pyo = pytest.importorskip("pyomo.environ")
    utility = case.utility(8)
    model = pyo.ConcreteModel()
    model.excess = pyo.Var(bounds=(0, None))
    for member in range(8):
        if case in (CASES["step table"], CASES["lognormal"]):
            with pytest.raises(co.UnsupportedProblemError, match=r"binary|no algebraic expression"):
                utility.expression(model.excess, pyo.exp, member)
            continue
        formula = utility.expression(model.excess, pyo.exp, member)
        for excess in [0.0, 1e-3, 0.5, 3.0, 17.0, 60.0, 300.0]:
            model.excess.set_value(excess)
            expected = one(utility, member).value_at(np.array([excess]))[0]
            assert pyo.value(formula) == pytest.approx(expected, rel=1e-9, abs=1e-14)


@every
@pytest.mark.filterwarnings("error")
def test_a_small_problem_is_solved_and_its_prices_are_marginal_utilities(case):
    utility = case.utility(20)
    tokens = co.Allocation(20, upper=100.0)
    problem = co.Problem(
        co.Maximize(co.sum(utility(tokens))), [(co.sum(tokens) <= 150.0).named("budget")]
    )
    solution = problem.solve()
    assert solution.status == "optimal"
    assert solution.allocation.sum() <= 150.0 * (1 + 1e-12)
    assert solution.objective == pytest.approx(utility.value(solution.allocation).sum(), rel=1e-12)


# ------------------------------------------------------------------ extremes
@pytest.mark.parametrize(
    "utility",
    [
        co.Logistic(1.0, 50.0, 1e300),
        co.Logistic(1.0, 50.0, 1e-300),
        co.Logistic(1.0, 1e300, 1e300),
        co.Logistic(0.0, 50.0, 0.1),
        co.Logistic(1.0, 0.0, 0.1),
        co.Hill(1.0, 50.0, 1e300),
        co.Hill(1.0, 50.0, 1e-3),
        co.Hill(1.0, 50.0, 1 + 1e-15),
        co.Hill(1.0, 50.0, 1 - 1e-15),
        co.Hill(1.0, 1e-300, 0.01),
        co.Hill(1.0, 1e300, 30.0),
        co.Hill(0.0, 1.0, 0.5),
        co.Lognormal(1.0, 50.0, 1e-300),
        co.Lognormal(1.0, 50.0, 1e300),
        co.Lognormal(1.0, 50.0, 30.0),
        co.Lognormal(1.0, 1e300, 39.0),
        co.Lognormal(1e-300, 1e-300, 1.0),
        co.Lognormal(0.0, 50.0, 1.0),
        co.SaturatingExponential(1.0, 50.0, 1e300),
        co.SaturatingExponential(1.0, 1e300, 1e-300),
        co.SaturatingExponential(1e-300, 0.0, 1e-10),
        co.SaturatingExponential(0.0, 3.0, 1.0),
        co.BestOfN(1.0, 1.0),
        co.BestOfN(0.0, 1.0),
        co.BestOfN(1e-300, 1e300),
        co.Triangular(1.0, 50.0, 1e-300),
        co.Triangular(1.0, 1e300, 1e300),
        co.Quadratic(1.0, 50.0, 1e-300),
        co.Quadratic(1.0, 1e300, 1e-9),
        co.Quadratic(0.0, 0.0, 1.0),
        co.Tabulated([0.0], [0.5]),
        co.Tabulated([1e-300, 1e300], [0.2, 0.9]),
        co.Tabulated([1.0, 2.0], [0.0, 0.0], "step"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("upper", [0.0, 1.0, 1e12])
def test_extreme_parameters_give_numbers(utility, upper):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        most = float(np.max(utility.value(np.geomspace(1e-3, 1e300, 50))))
        for price in [-1e-3, 0.0, 5e-324, 1e-12, 1.0, 1e300]:
            for integer in (None, np.bool_(True)):
                with np.errstate(all="ignore"):
                    answer = utility.best_response(
                        np.float64(1.0),
                        np.float64(price),
                        np.float64(0.0),
                        np.float64(upper),
                        integer,
                    )
                assert 0.0 <= answer.tokens <= upper
                assert np.isfinite(answer.gain)
                assert answer.gain >= utility.value(0.0) * (1 - EPS)
                assert 0.0 <= answer.utility <= max(1.0, most) * (1 + 8 * EPS)
            assert not np.isnan(utility.demand(price)).any()
        assert not np.isnan(utility.break_even_price(upper)).any()
        assert not np.isnan(utility.break_even_tokens()).any()
        with np.errstate(all="ignore"):
            assert not np.isnan(utility.saturation_excess).any()
            assert not np.isnan(utility.value_at(np.asarray(np.inf))).any()


def test_a_rise_within_one_rounding_error_is_taken():
    for utility in (
        co.Logistic(1.0, 50.0, 1e300),
        co.Hill(1.0, 50.0, 1e300),
        co.Lognormal(1.0, 50.0, 1e-300),
    ):
        answer = utility.best_response(
            np.float64(1.0), np.float64(1e-3), np.float64(0.0), np.float64(100.0)
        )
        assert answer.tokens == np.nextafter(50.0, 100.0)
        assert answer.gain == pytest.approx(0.95, abs=1e-12)


# ------------------------------------------------------------------ families of their own
def test_a_certain_sample_is_right_the_first_time():
    utility = co.BestOfN([1.0, 0.0, 0.25])
    assert utility.value(np.ones(3))[:2].tolist() == [1.0, 0.0]
    assert utility.value(np.ones(3))[2] == pytest.approx(0.25, rel=4 * EPS)
    assert utility.value(np.array([0.0, 9.0, 2.0])) == pytest.approx([0.0, 0.0, 0.4375])
    samples = co.Allocation(3, upper=8, integer=True)
    problem = co.Problem(
        co.Maximize(co.sum(utility(samples))), [(co.sum(samples) <= 6).named("budget")]
    )
    solution = problem.solve()
    assert solution.allocation.tolist() == [1.0, 0.0, 5.0]


def test_hill_without_a_finite_slope_at_nothing_always_buys():
    utility = co.Hill(1.0, 100.0, 0.5)
    assert utility.break_even_price() == np.inf
    assert utility.marginal(0.0) == np.inf
    for price in (1e-3, 1.0, 1e3):
        bought = utility.demand(price)
        assert bought > 0
        assert utility.marginal(bought) == pytest.approx(price, rel=1e-12)


def test_an_infinitely_steep_start_is_no_obstacle_to_other_solvers():
    pytest.importorskip("pyscipopt")
    tokens = co.Allocation(3, upper=100.0)
    accuracy = co.Hill([0.9, 0.5, 0.7], [20.0, 3.0, 60.0], [0.5, 0.8, 1.0])(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 60.0])
    best = problem.solve()
    assert best.status == "optimal"
    for solver in ("scip", "cvxpy"):
        other = problem.solve(solver, time_limit=20)
        assert other.bound >= best.objective * (1 - 1e-9)
        assert other.objective == pytest.approx(best.objective, rel=1e-5)


@pytest.mark.parametrize("family", [co.Triangular, co.Quadratic])
def test_where_tokens_are_asked_for_a_hump_is_held_past_its_peak_or_left_behind(family):
    utility = family(1.0, 10.0, 20.0)
    one_, low = np.float64(1.0), np.float64(0.0)
    small = utility.best_response(one_, np.float64(-1e-3), low, np.float64(40.0))
    assert 20.0 <= small.tokens < 21.0
    large = utility.best_response(one_, np.float64(-1.0), low, np.float64(40.0))
    assert large.tokens == 40.0


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: co.Logistic(0.5, -1.0, 0.1), r"Logistic: midpoint = -1.0: must be at least 0"),
        (lambda: co.Logistic(0.5, np.inf, 0.1), r"midpoint = inf: must be finite"),
        (lambda: co.Logistic([0.5, np.nan], 1.0, 0.1), r"scale\[1\] = nan"),
        (lambda: co.Hill(0.5, 0.0, 2.0), r"Hill: half = 0.0: must be positive"),
        (lambda: co.Hill(0.5, [1.0, 2.0], [2.0, 0.0]), r"power\[1\] = 0.0"),
        (lambda: co.Hill([0.1] * 2, [1.0] * 3, 2.0), "lengths"),
        (lambda: co.Lognormal(0.5, 0.0, 1.0), r"Lognormal: median = 0.0: must be positive"),
        (lambda: co.Lognormal(0.5, 9.0, [1.0, 0.0]), r"spread\[1\] = 0.0: must be positive"),
        (lambda: co.Triangular(-0.1, 0.0, 1.0), r"Triangular: scale = -0.1"),
        (lambda: co.Quadratic(0.1, 0.0, 0.0), r"Quadratic: width = 0.0: must be positive"),
        (lambda: co.SaturatingExponential(0.1, -2.0, 1.0), r"threshold = -2.0"),
        (lambda: co.BestOfN([0.5, 1.5]), r"success\[1\] = 1.5: must be at most 1"),
        (lambda: co.BestOfN(0.5, 0.0), r"tokens_per_sample = 0.0: must be positive"),
        (lambda: co.BestOfN("half"), "success"),
    ],
)
def test_wrong_parameters_are_named(make, match):
    with pytest.raises(co.DeclarationError, match=match):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: co.Logistic(1.5, 1.0, 0.1),
        lambda: co.Hill(1.5, 1.0, 2.0),
        lambda: co.Lognormal(1.5, 1.0, 1.0),
        lambda: co.Triangular(1.5, 0.0, 1.0),
        lambda: co.Quadratic(1.5, 0.0, 1.0),
        lambda: co.SaturatingExponential(1.5, 0.0, 1.0),
        lambda: co.Tabulated([1.0, 2.0], [0.5, 1.5]),
    ],
)
def test_a_scale_above_one_is_warned_about_where_it_is_written(make):
    with pytest.warns(co.ScaleWarning, match="above 1") as caught:
        make()
    assert caught[0].filename == __file__


@pytest.mark.parametrize("power", [0.01, 0.05, 0.1, 0.25, 0.31, 0.5, 0.9, 1.0])
def test_a_gentle_hill_is_bought_where_its_slope_is_the_price(power):
    hill = co.Hill([0.9, 0.7, 1.0], [1.0, 400.0, 1e5], power)
    for price in 10.0 ** np.linspace(-12, 3, 31):
        with np.errstate(all="ignore"):  # as every caller has it
            amount = hill.stationary_excess(np.full(3, price))
        assert np.isfinite(amount).all()
        inside = (amount > 1e-290) & (amount < 1e290)
        assert np.allclose(hill.marginal(amount)[inside], price, rtol=1e-9, atol=0)
    assert power == 1.0 or (hill.demand(1e-5) > 0).all()  # infinitely steep at 0


def test_gentle_hills_are_shared_at_equal_slopes():
    tokens = co.Allocation(4, upper=4096)
    accuracy = co.Hill([0.9, 0.8, 0.7, 0.6], 100, 0.1)(tokens)
    solution = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 2000]).solve()
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(1.62127448, rel=1e-8)
    slopes = solution.program.marginal(solution.allocation)
    assert slopes == pytest.approx(slopes[0], rel=1e-6)
