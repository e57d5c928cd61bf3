"""Sums of utilities on the same queries, against brute force."""

import numpy as np
import pytest

import clearopt as co
from clearopt.utilities.family import concatenated
from clearopt.utilities.total import Total

M = 60


def surges(seed, family=co.CumulativeSurge, threshold=None, m=M):
    rng = np.random.default_rng(seed)
    threshold = rng.uniform(0, 300, m) if threshold is None else threshold
    return family(rng.uniform(0.1, 1, m), threshold, 10.0 ** rng.uniform(-2.5, -1, m)).broadcast(m)


def sums(seed=0):
    """S-shaped sums of many kinds, and their parts and weights."""
    rng = np.random.default_rng(seed)
    first = surges(seed)
    shifted = co.ShiftedSurge(first.scale, first.threshold, first.rate / 3).broadcast(M)
    twice = co.CumulativeSurge(0.5, first.threshold, first.rate * 1.5).broadcast(M)
    weights = rng.uniform(0.2, 2, M)
    yield [first, shifted], [weights, 0.5]
    yield [first, twice], [1.0, weights]
    # A later part, soon enough after the inflection of the first.
    late = co.ShiftedSurge(0.1, first.threshold + 0.3 / first.rate, first.rate * 0.5).broadcast(M)
    yield [late, first], [np.where(np.arange(M) % 2, 0.0, 0.2), 1.0]


def brute(parts, weights, b):
    return sum(w * part.value(b) for part, w in zip(parts, weights, strict=True))


@pytest.mark.parametrize("number", range(3))
def test_values_slopes_and_shape(number):
    parts, weights = list(sums())[number]
    total = Total.of(parts, weights)
    assert not total.traceable
    for b in np.random.default_rng(1).uniform(0, 1500, (20, M)):
        np.testing.assert_allclose(total.value(b), brute(parts, weights, b), rtol=1e-12, atol=1e-15)
        slope = sum(w * part.marginal(b) for part, w in zip(parts, weights, strict=True))
        np.testing.assert_allclose(total.marginal(b), slope, rtol=1e-10, atol=1e-15)
    grid = np.concatenate([np.linspace(0, 1e4, 20001), np.linspace(0, 500, 5001)])[:, None]
    values, slopes = brute(parts, weights, grid + np.zeros(M)), total.marginal(grid + np.zeros(M))
    assert (total.greatest_marginal >= slopes.max(axis=0) * (1 - 1e-12)).all()
    peak = total.value_at(total.saturation_excess)
    assert (peak >= values.max(axis=0) * (1 - 1e-14)).all()
    with np.errstate(all="ignore"):
        chords = (values / grid).max(axis=0, where=grid > 0, initial=0)
    assert (total.break_even_price() >= chords * (1 - 1e-12)).all()
    contact = total.break_even_tokens()
    np.testing.assert_allclose(
        brute(parts, weights, contact), contact * total.break_even_price(), rtol=1e-10
    )


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_best_responses_against_a_grid(number, whole):
    parts, weights = list(sums(3))[number]
    total = Total.of(parts, weights)
    rng = np.random.default_rng(4)
    for turn in range(12):
        lower = np.floor(rng.uniform(0, 200, M)) * (turn % 2)
        upper = lower + np.ceil(10.0 ** rng.uniform(0, 3.2, M))
        price = rng.uniform(0, 1.3, M) * total.break_even_price()
        flag = np.ones(M, dtype=bool) if whole else None
        answer = total.best_response(np.ones(M), price, lower, upper, flag)
        menu = lower + np.arange(0, (upper - lower).max() + 1)[:, None]
        inside = menu <= upper
        gains = np.where(inside, brute(parts, weights, menu) - price * menu, -np.inf).max(axis=0)
        exact = brute(parts, weights, answer.tokens) - price * answer.tokens
        assert (answer.gain >= gains - 1e-13).all()
        np.testing.assert_allclose(answer.gain, exact, rtol=1e-9, atol=1e-12)
        if whole:
            assert (answer.tokens == np.floor(answer.tokens)).all()
            assert (answer.gain <= gains + 1e-12).all()


def test_a_negative_price_is_met_past_the_peak():
    shifted = surges(0, co.ShiftedSurge)
    other = co.ShiftedSurge(0.4, shifted.threshold, shifted.rate * 1.1).broadcast(M)
    total = Total.of([shifted, other], [1.0, 1.0])
    price = -0.1 * total.greatest_marginal
    tokens = total.origin + total.stationary_excess(price)
    assert (tokens > total.origin + total.saturation_excess).all()
    np.testing.assert_allclose(total.marginal(tokens), price, rtol=1e-9)


def test_a_sum_of_one_family_with_itself_is_that_family_again():
    one = surges(7)
    total = Total.of([one, one], [0.25, 0.75])
    np.testing.assert_allclose(total.break_even_price(), one.break_even_price(), rtol=1e-13)
    np.testing.assert_allclose(
        total.inflection_excess, one.inflection_excess, rtol=1e-6
    )  # a smooth maximum is flat
    price = one.break_even_price() * 0.4
    np.testing.assert_allclose(
        total.stationary_excess(price), one.stationary_excess(price), rtol=1e-9
    )


def test_a_weight_of_nothing_counts_for_nothing():
    early, late = surges(1, threshold=0.0), surges(1, threshold=500.0)
    total = Total.of([early, late], [0.0, 1.0])
    assert (total.origin == 500.0).all()
    np.testing.assert_allclose(total.break_even_price(), late.break_even_price(), rtol=1e-13)
    nothing = Total.of([early, late], [0.0, 0.0])
    assert (nothing.break_even_price() == 0).all()
    assert (nothing.demand(0.1) == 0).all()


FAMILIES = {
    "surge": lambda rng, start, m: co.CumulativeSurge(
        rng.uniform(0.1, 1, m), start, 10 ** rng.uniform(-2.5, -0.5, m)
    ),
    "shifted": lambda rng, start, m: co.ShiftedSurge(
        rng.uniform(0.1, 1, m), start, 10 ** rng.uniform(-2.5, -0.5, m)
    ),
    "logistic": lambda rng, start, m: co.Logistic(
        rng.uniform(0.1, 1, m), rng.uniform(0, 300, m), 10 ** rng.uniform(-2.5, -0.5, m)
    ),
    "hill": lambda rng, start, m: co.Hill(
        rng.uniform(0.1, 1, m), rng.uniform(10, 300, m), rng.uniform(0.5, 4, m)
    ),
    "samples": lambda rng, start, m: co.BestOfN(rng.uniform(0.1, 0.9, m), rng.uniform(10, 300, m)),
    "parabola": lambda rng, start, m: co.Quadratic(
        rng.uniform(0.1, 1, m), start, rng.uniform(10, 300, m)
    ),
    "triangle": lambda rng, start, m: co.Triangular(
        rng.uniform(0.1, 1, m), start, rng.uniform(10, 300, m)
    ),
}


@pytest.mark.parametrize("first", FAMILIES)
@pytest.mark.parametrize("second", FAMILIES)
def test_a_sum_is_solved_exactly_or_refused(first, second):
    rng = np.random.default_rng(sum(map(ord, first + second)))
    m = 8
    start = rng.choice([0.0, 5.0, 100.0], m)
    left, right = (FAMILIES[name](rng, start, m).broadcast(m) for name in (first, second))
    menu = np.concatenate([np.geomspace(1e-6, 2000, 1500), np.linspace(0, 2000, 4001)])
    for i in range(m):
        parts = [left.take(slice(i, i + 1)), right.take(slice(i, i + 1))]
        try:
            total = Total.of(parts, [1.0, 0.5])
        except co.DeclarationError as error:
            assert "not S-shaped" in str(error)  # noqa: PT017
            continue
        top = min(float(total.break_even_price()[0]), 1.0)
        for price in (*rng.uniform(0, 1.2, 3) * top, -0.2 * top):
            lower = rng.choice([0.0, rng.uniform(0, 200)])
            upper = lower + rng.uniform(0, 800)
            inside = menu[(menu >= lower) & (menu <= upper)]
            gains = brute(parts, [1.0, 0.5], inside) - price * inside
            box = np.ones(1), np.array([price]), np.array([lower]), np.array([upper])
            try:
                answer = total.best_response(*box)
            except co.UnsupportedProblemError as error:
                assert price < 0
                assert "bends more than once past its peak" in str(error)  # noqa: PT017
                continue
            assert answer.gain[0] >= gains.max() - 1e-11 * (1 + abs(price) * upper)


# ------------------------------------------------------------------ refused
def test_a_sum_of_two_surges_far_apart_is_refused():
    first = co.CumulativeSurge(0.5, [10.0, 10.0], 0.1).broadcast(2)
    second = co.ShiftedSurge(0.5, [10.0, 900.0], 0.1).broadcast(2)
    message = (
        r"CumulativeSurge \+ ShiftedSurge\[1\]: its slope falls from .* at 20 tokens to .*, then "
        r"rises to .* at 900 tokens: it is not S-shaped; .*Give the query one of them"
    )
    with pytest.raises(co.DeclarationError, match=message):
        Total.of([first, second], [1.0, 1.0])
    with pytest.raises(co.DeclarationError, match="its value falls"):
        Total.of([co.ShiftedSurge(0.6, [10.0, 10.0], 0.1).broadcast(2), second], [1.0, 1.0])


def test_parts_without_a_shape_and_bad_weights_are_refused():
    one = surges(2, m=2)
    table = co.Tabulated([0.0, 100.0], [0.1, 0.4]).broadcast(2)
    with pytest.raises(co.DeclarationError, match="Tabulated has no shape to rely on"):
        Total.of([one, table], [1.0, 1.0])
    with pytest.raises(co.DeclarationError, match=r"weight 1\[1\] = -1.0: must be at least 0"):
        Total.of([one, one], [1.0, [1.0, -1.0]])
    with pytest.raises(co.DeclarationError, match="broadcast all parts"):
        Total.of([one, surges(2, m=3)], [1.0, 1.0])


# ------------------------------------------------------------------ members, units, export
def test_members_taken_and_put_together_again():
    (parts, weights), *_ = sums()
    total = Total.of(parts, weights)
    left, right = total.take(np.arange(10)), total.take(slice(10, None))
    assert left._shape is not None
    again = concatenated([left, right])
    assert again.kind == total.kind
    assert hash(again.kind) == hash(total.kind)
    np.testing.assert_allclose(again.break_even_price(), total.break_even_price(), rtol=1e-13)
    assert again.kind != Total.of(parts[::-1], [1.0, 1.0]).kind
    assert repr(total).startswith("[0.204929 .. 1.99498] * CumulativeSurge(scale=[")


def test_units_and_export():
    for parts, weights in sums(5):
        total = Total.of(parts, weights)
        unit = np.where(np.arange(M) % 2, 32.0, 1.0)
        scaled = total.in_units(unit, 0.5)
        b = np.random.default_rng(0).uniform(0, 900, M)
        np.testing.assert_allclose(
            scaled.value(b / unit), 2 * total.value(b), rtol=1e-12, atol=1e-15
        )
        np.testing.assert_allclose(
            scaled.break_even_price(), 2 * unit * total.break_even_price(), rtol=1e-13
        )
        excess = np.linspace(0, 700, 50)
        for member in (0, 1):
            alone = scaled.take(slice(member, member + 1))
            np.testing.assert_allclose(
                scaled.expression(excess, np.exp, member), alone.value_at(excess), atol=1e-12
            )


def test_sigmoidal_parts():
    import jax

    one = surges(2, m=3)
    bend = co.Sigmoidal(
        lambda b, m: 0.1 * jax.nn.sigmoid((b - m) / 50), one.threshold, longest=3000
    )
    total = Total.of([one, bend.broadcast(3)], [1.0, 1.0])
    assert (total.origin == 0).all()
    b = np.array([100.0, 200.0, 300.0])
    np.testing.assert_allclose(total.value(b), one.value(b) + bend.value(b), rtol=1e-14)
    assert total.take(np.array([1])).parts[1].fn is bend.fn


# ------------------------------------------------------------------ a whole problem
@pytest.mark.parametrize("whole", [False, True])
def test_a_problem_with_a_sum_against_all_splits(whole):
    first, second = surges(4, m=2), surges(4, co.ShiftedSurge, m=2)
    tokens = co.Allocation(2, upper=400, integer=whole)
    problem = co.Problem(
        co.Maximize(co.sum(first(tokens)) + 0.5 * co.sum(second(tokens))), [co.sum(tokens) <= 450]
    )
    solution = problem.solve()
    assert solution.status == "optimal"
    split = np.arange(50.0, 401.0)[:, None] * [1.0, 0.0]
    split[:, 1] = 450.0 - split[:, 0]
    best = (first.value_at(first.excess_of(split)) + 0.5 * second.value(split)).sum(axis=1).max()
    assert solution.objective >= best * (1 - 2e-6)
    reached = first.value(solution.allocation) + 0.5 * second.value(solution.allocation)
    assert solution.objective == pytest.approx(reached.sum(), rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_a_sum_is_looked_at_up_to_the_declared_bounds_only(seed):
    """What surges again, or decays and rises again, beyond them is refused only without them."""
    rng = np.random.default_rng(seed)
    threshold = rng.uniform(0, 30, 2)
    upper = threshold + rng.integers(20, 60, 2)
    later = np.ceil(upper).max() + rng.uniform(10, 300, 2)
    first, second = (
        (co.CumulativeSurge(0.5, threshold, 0.2), co.CumulativeSurge(0.5, later, 0.2)),
        (co.ShiftedSurge(0.5, threshold, 0.02), co.Hill(0.3, threshold + 30, 2)),
    )[seed % 2]
    budget = int(upper.sum() * 0.6)

    def problem(upper):
        tokens = co.Allocation(2, upper=upper, integer=True)
        total = co.sum(first(tokens)) + 2 * co.sum(second(tokens))
        return co.Problem(co.Maximize(total), [co.sum(tokens) <= budget])

    with pytest.raises(co.DeclarationError, match="is not S-shaped"):
        problem(4000)
    bounded = problem(upper)
    solution = bounded.solve()
    assert solution.status == "optimal"
    whole = np.arange(int(upper.max()) + 1)[:, None] + np.zeros(2)
    values = np.where(whole <= upper, first.value(whole) + 2 * second.value(whole), -np.inf)
    fits = np.add.outer(whole[:, 0], whole[:, 0]) <= budget
    best = np.where(fits, np.add.outer(values[:, 0], values[:, 1]), -np.inf).max()
    assert solution.objective == pytest.approx(best, rel=2e-6)
    block = bounded.program.utilities[0]
    assert (block.family.saturation_excess + block.family.origin <= upper).all()
    assert co.Problem.from_program(bounded.program).solve().objective == solution.objective


@pytest.mark.parametrize("upper", [0.0, 5.0])
def test_a_sum_that_nobody_reaches(upper):
    """The bounds end before either part begins."""
    tokens = co.Allocation(2, upper=upper)
    first, second = co.CumulativeSurge(0.5, 20, 0.1), co.CumulativeSurge(0.5, 300, 0.1)
    solution = co.Problem(co.Maximize(co.sum(first(tokens) + second(tokens)))).solve()
    assert solution.status == "optimal"
    assert solution.objective == 0
