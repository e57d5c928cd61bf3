"""Utilities as functions of their expected cost, against brute force over tokens."""

import numpy as np
import pytest

import clearopt as co
from clearopt.program import Program, UtilityBlock
from clearopt.solvers.relaxation import concave_envelope
from clearopt.utilities.family import concatenated
from clearopt.utilities.per_cost import PerCost

M = 60
EPS = np.finfo(float).eps


def members(m=M, seed=0):
    rng = np.random.default_rng(seed)
    threshold = rng.choice([0.0, 1.0, 30.0, 1000.0], m)
    return rng.uniform(0.1, 1.0, m), threshold, 10.0 ** rng.uniform(-3, 0.5, m)


def built(family, ends, m=M, seed=0):
    scale, threshold, rate = members(m, seed)
    utility = family(scale, threshold, rate).broadcast(m)
    curve = co.ExpectedTokens(threshold, rate, ends).broadcast(m)
    return utility, curve, PerCost.of(utility, curve, threshold + 60 / rate)


CASES = [(f, e) for f in (co.CumulativeSurge, co.ShiftedSurge) for e in (1.0, 0.9, 0.5, 0.0)]
every_case = pytest.mark.parametrize(("family", "ends"), CASES)


# ------------------------------------------------------------------ the curve in z
@every_case
def test_values_slopes_and_tokens(family, ends):
    utility, curve, seen = built(family, ends)
    _, threshold, rate = members()
    assert not seen.traceable
    assert (np.asarray(seen.origin) == 0).all()
    for y in np.geomspace(1e-3, 25.0, 25):
        if family is co.ShiftedSurge and y > 1:
            break
        b = threshold + y / rate
        cost = curve.value(b)
        found = seen.tokens(cost)
        assert (curve.value(found) <= cost * (1 + 32 * EPS)).all()
        np.testing.assert_allclose(seen.value(cost), utility.value(b), rtol=1e-9, atol=1e-12)
        ratio = utility.marginal(b) / curve.marginal(b)
        if y < 15 or ends < 1:  # later the inverse knows no better
            np.testing.assert_allclose(seen.marginal(cost), ratio, rtol=1e-5, atol=1e-12)
    assert (seen.tokens(np.zeros(M)) == 0).all()
    assert (seen.value(np.inf) == utility.value(threshold + 60 / rate)).all()


def test_the_surge_is_convex_in_its_own_expected_tokens():
    utility, curve, seen = built(co.CumulativeSurge, 1.0)
    scale, _, rate = members()
    np.testing.assert_allclose(seen.inflection_excess, seen.saturation_excess, rtol=1e-14)
    np.testing.assert_allclose(seen.greatest_marginal, scale * rate * 45 / 46, rtol=1e-9)
    whole_cost = curve.value(utility.threshold + 45 / rate)
    np.testing.assert_allclose(seen.break_even_price(), scale / whole_cost, rtol=1e-12)
    # So it is bought whole or not at all.
    assert (seen.demand(1.001 * seen.break_even_price()) == 0).all()
    np.testing.assert_allclose(seen.demand(0.999 * seen.break_even_price()), whole_cost, rtol=1e-12)
    # Where some answers never end, there is an amount worth stopping at.
    for ends in (0.99, 0.5):
        interior = built(co.CumulativeSurge, ends)[2]
        y = (interior.shape.inflection - utility.threshold) * rate
        assert (np.abs(y - y[0]) < 1e-5).all()
        step = 1e-3
        ratio = [
            t * np.exp(-t) / (1 - ends + ends * (1 + t) * np.exp(-t))
            for t in (y[0] - step, y[0], y[0] + step)
        ]
        assert ratio[1] > max(ratio[0], ratio[2])


@every_case
def test_the_break_even_line_is_the_steepest_chord(family, ends):
    utility, curve, seen = built(family, ends)
    _, threshold, rate = members()
    b = threshold + np.geomspace(1e-4, 60, 4000)[:, None] / rate
    chords = (utility.value(b) / curve.value(b)).max(axis=0)
    price = seen.break_even_price()
    assert (price >= chords * (1 - 1e-12)).all()
    np.testing.assert_allclose(price, chords, rtol=2e-3)
    contact, slope = seen.tangent_from_zero()
    positive = contact > 0
    np.testing.assert_allclose(
        seen.value(contact)[positive], (slope * contact)[positive], rtol=1e-6
    )


# ------------------------------------------------------------------ best responses
@every_case
def test_best_responses_against_a_grid_of_tokens(family, ends):
    utility, curve, seen = built(family, ends)
    scale, threshold, rate = members()
    rng = np.random.default_rng(1)
    y = np.concatenate([np.linspace(0, 60, 2001), np.geomspace(1e-6, 60, 1000)])
    menu = np.concatenate([np.zeros((1, M)), threshold + y[:, None] / rate])
    costs, values = curve.value(menu), utility.value(menu)
    for turn in range(16):
        start = threshold + rng.uniform(0, 3, M) / rate if turn % 2 else np.zeros(M)
        lower = curve.value(start)
        upper = curve.value(start + 10.0 ** rng.uniform(-2, 1.7, M) / rate)
        weight = rng.uniform(0.5, 2, M)
        price = weight * 10.0 ** rng.uniform(-2, 0.3, M) * seen.break_even_price()
        answer = seen.best_response(weight, price, lower, upper)
        inside = (costs >= lower) & (costs <= upper)
        gains = np.where(inside, weight * values - price * costs, -np.inf).max(axis=0)
        size = weight * scale + price * upper
        assert (answer.gain >= gains - 1e-13 * size).all()
        tokens = seen.tokens(answer.tokens)
        exact = weight * utility.value(tokens) - price * curve.value(tokens)
        assert (np.abs(exact - answer.gain) <= 1e-12 * size).all()
        assert (answer.tokens >= lower).all()
        assert (answer.tokens <= upper).all()


@every_case
def test_whole_tokens_against_enumeration(family, ends):
    m = 40
    rng = np.random.default_rng(2)
    scale, threshold = rng.uniform(0.1, 1, m), rng.uniform(0, 30, m)
    rate = 10.0 ** rng.uniform(-1.5, 0.7, m)
    utility = family(scale, threshold, rate).broadcast(m)
    curve = co.ExpectedTokens(threshold, rate, ends).broadcast(m)
    whole = np.ones(m, dtype=bool)
    seen = PerCost.of(utility, curve, np.full(m, 300.0), whole)
    for turn in range(12):
        low = np.floor(rng.uniform(0, 40, m)) * (turn % 2)
        high = low + np.floor(rng.uniform(0, 250, m))
        price = rng.uniform(0, 1.5, m) * seen.break_even_price()
        answer = seen.best_response(np.ones(m), price, curve.value(low), curve.value(high), whole)
        menu = low + np.arange(0.0, 251.0)[:, None]
        gains = utility.value(menu) - price * curve.value(menu)
        gains = np.where(menu <= high, gains, -np.inf).max(axis=0)
        count = seen.whole_tokens(answer.tokens)
        exact = utility.value(count) - price * curve.value(count)
        size = scale + price * curve.value(high)
        assert (answer.gain >= gains - 1e-12 * size).all()
        # Where C is nearly flat, amounts beside the box cost the same: it is never worse.
        assert (exact >= gains - 1e-12 * size).all()


def test_whole_amounts_are_costs_of_whole_tokens():
    curve = co.ExpectedTokens([10.0, 0.0], 0.1, [1.0, 0.7]).broadcast(2)
    utility = co.CumulativeSurge(0.8, [10.0, 0.0], 0.1).broadcast(2)
    seen = PerCost.of(utility, curve, np.full(2, 460.0))
    for k in range(150):
        cost = curve.value(np.full(2, float(k)))
        for off in (0.0, 2 * EPS, -2 * EPS):  # rounded either way
            shifted = cost * (1 + off)
            assert (seen.whole_tokens(shifted) == k).all()
            np.testing.assert_allclose(seen.whole_below(shifted), cost, rtol=1e-14)
            np.testing.assert_allclose(seen.whole_above(shifted), cost, rtol=1e-14)
        after = curve.value(np.full(2, k + 1.0))
        np.testing.assert_allclose(seen.whole_after(cost), after, rtol=1e-14)
        middle = 0.5 * (cost + after)
        np.testing.assert_allclose(seen.whole_below(middle), cost, rtol=1e-14)
        np.testing.assert_allclose(seen.whole_above(middle), after, rtol=1e-14)


# ------------------------------------------------------------------ free tokens, sampled curves
def test_free_tokens_are_taken_up_to_the_last_useful_one():
    # All answers end by 20 tokens: every token after that is free.
    curve = co.ExpectedTokens.from_lengths([[20.0, 20.0], [20.0, 20.0]])
    utility = co.CumulativeSurge(0.8, 0.0, [0.001, 0.001]).broadcast(2)
    most = np.array([300.0, 15.0])
    seen = PerCost.of(utility, curve.broadcast(2), most)
    np.testing.assert_allclose(seen.saturation_excess, [20.0, 15.0])
    assert seen.tokens(np.array([20.0, 15.0])).tolist() == most.tolist()
    np.testing.assert_allclose(seen.value([20.0, 15.0]), utility.value(most))
    price = 0.9 * seen.break_even_price()
    assert seen.demand(price).tolist() == [20.0, 15.0]
    # Too many tokens harm: of the free ones the best, whole where they are.
    harm = co.ShiftedSurge(0.8, [22.0, 22.0], 0.3).broadcast(2)
    whole = np.array([False, True])
    best = PerCost.of(harm, curve.broadcast(2), np.full(2, 300.0), whole).tokens(np.full(2, 20.0))
    np.testing.assert_allclose(best, [22 + 1 / 0.3, 25.0], rtol=1e-12)


def test_a_sampled_curve_that_breaks_the_shape_is_refused_with_advice():
    curve = co.ExpectedTokens.from_lengths([[50.0, 80.0, 120.0, 200.0]]).broadcast(1)
    utility = co.CumulativeSurge(0.8, 10.0, [0.05]).broadcast(1)
    message = (
        r"CumulativeSurge per SampledTokens\[0\]: its slope falls from .* at 30 tokens to .* "
        r"at 200 tokens, then rises to inf at 200 to.*integer=True\), which is solved on their grid"
    )
    with pytest.raises(co.DeclarationError, match=message):
        PerCost.of(utility, curve, np.array([400.0]))
    # Up to its inflection the same utility is convex in any cost.
    seen = PerCost.of(utility, curve, np.array([25.0]))
    assert seen.inflection_excess == seen.saturation_excess == 25.0


@pytest.mark.parametrize("ends", [1.0, 0.9, 0.5, 0.0])
def test_a_lognormal_is_s_shaped_in_lognormal_tokens_that_spread_as_widely(ends):
    rng = np.random.default_rng(4)
    median, spread = 10.0 ** rng.uniform(0, 5, M), 10.0 ** rng.uniform(-1.5, 0.5, M)
    utility = co.Lognormal(rng.uniform(0.1, 1, M), median, spread).broadcast(M)
    for stretch, wider in ((1.0, 1.0), (3.0, 1.0), (0.5, 1.4)):
        curve = co.LognormalTokens(stretch * median, wider * spread, ends).broadcast(M)
        most = median * np.exp(np.minimum(5 * spread, 20.0))
        seen = PerCost.of(utility, curve, most)
        # Nothing cheaper a token than the line from nothing, which is reached.
        b = median * np.exp(np.linspace(-4, 5, 3001)[:, None] * spread)
        b = np.minimum(b, most)
        chords = (utility.value(b) / curve.value(b)).max(axis=0)
        assert (seen.break_even_price() >= chords * (1 - 1e-12)).all()
        np.testing.assert_allclose(seen.break_even_price(), chords, rtol=1e-4)
        price = rng.uniform(0.2, 1.0, M) * chords
        bought = seen.tokens(seen.demand(price))
        gain = utility.value(bought) - price * curve.value(bought)
        best = (utility.value(b) - price * curve.value(b)).max(axis=0)
        assert (gain >= best * (1 - 1e-9)).all()


def test_a_lognormal_in_tokens_that_spread_less_may_be_refused():
    # In the far tail the narrower law has ended: utility is gained at next to no cost.
    utility = co.Lognormal(0.8, 100.0, [1.2]).broadcast(1)
    curve = co.LognormalTokens(100.0, 0.9).broadcast(1)
    with pytest.raises(co.DeclarationError, match=r"LognormalTokens.*then rises"):
        PerCost.of(utility, curve, np.array([20_000.0]))


@pytest.mark.parametrize("ends", [1.0, 0.8])
def test_a_utility_in_any_cost_is_solved_exactly_or_refused(ends):
    rng = np.random.default_rng(11)
    m = 10
    start = rng.choice([0.0, 5.0, 100.0], m)
    scale, width = rng.uniform(0.1, 1, m), rng.uniform(10, 300, m)
    families = [
        co.CumulativeSurge(scale, start, 10 / width),
        co.ShiftedSurge(scale, start, 3 / width),
        co.Logistic(scale, width, 10 / width),
        co.Hill(scale, width, rng.uniform(0.5, 4, m)),
        co.SaturatingExponential(scale, start, 3 / width),
        co.Triangular(scale, start, width),
        co.Quadratic(scale, start, width),
    ]
    curves = co.ExpectedTokens(start, 10.0 ** rng.uniform(-2.5, -0.5, m), ends).broadcast(m)
    menu = np.concatenate([np.geomspace(1e-6, 1500, 1500), np.linspace(0, 1500, 3001)])
    accepted = 0
    for family in families:
        for i in range(m):
            one = slice(i, i + 1)
            utility, curve = family.broadcast(m).take(one), curves.take(one)
            high = rng.uniform(100, 1500)
            try:
                seen = PerCost.of(utility, curve, np.array([high]))
            except co.DeclarationError as error:
                assert "integer=True" in str(error)  # noqa: PT017
                continue
            accepted += 1
            inside = menu[menu <= high]
            values, costs = utility.value(inside), curve.value(inside)
            end = curve.value(np.array([high]))
            for price in rng.uniform(0, 1.2, 3) * min(float(seen.break_even_price()[0]), 1.0):
                answer = seen.best_response(np.ones(1), np.array([price]), np.zeros(1), end)
                assert answer.gain[0] >= (values - price * costs).max() - 1e-10
    assert accepted > 35


def test_what_cannot_be_seen_in_costs():
    curve = co.ExpectedTokens(10.0, 0.1).broadcast(2)
    table = co.Tabulated([0.0, 100.0], [0.1, 0.4]).broadcast(2)
    with pytest.raises(co.DeclarationError, match="Tabulated has no shape to rely on"):
        PerCost.of(table, curve, np.full(2, 100.0))
    utility = co.CumulativeSurge(0.8, 10.0, 0.1).broadcast(2)
    with pytest.raises(co.DeclarationError, match=r"most\[1\] = inf: must be finite"):
        PerCost.of(utility, curve, np.array([1.0, np.inf]))
    seen = PerCost.of(utility, curve, np.full(2, 100.0))
    with pytest.raises(co.UnsupportedProblemError):
        seen.expression(1.0, np.exp, 0)
    nothing = PerCost.of(utility, curve, np.zeros(2))  # no room at all
    assert nothing.demand(0.0, 0.0, 0.0).tolist() == [0.0, 0.0]


# ------------------------------------------------------------------ members, relaxation, problems
def test_members_taken_and_put_together_again():
    seen = built(co.CumulativeSurge, 0.9)[2]
    left, right = seen.take(np.arange(7)), seen.take(slice(7, None))
    again = concatenated([left, right])
    assert again.kind == seen.kind
    np.testing.assert_allclose(again.break_even_price(), seen.break_even_price(), rtol=1e-13)
    assert left._shape is not None
    assert repr(seen).startswith("PerCost(CumulativeSurge(")


@every_case
def test_the_concave_envelope_lies_above_the_curve(family, ends):
    utility, curve, seen = built(family, ends)
    _, threshold, rate = members()
    from scipy import sparse

    lower = np.where(np.arange(M) % 3 == 0, curve.value(threshold + 0.2 / rate), 0.0)
    upper = curve.value(threshold + np.where(np.arange(M) % 2, 50.0, 1.5) / rate)
    program = Program(
        weight=np.ones(M),
        cost=np.zeros(M),
        lower=lower,
        upper=upper,
        integer=np.zeros(M, dtype=bool),
        utilities=(UtilityBlock(seen, np.arange(M)),),
        rows=sparse.csr_array((0, M)),
        senses=(),
        right_hand_side=np.zeros(0),
        floors=sparse.csr_array((0, M)),
        floor_levels=np.zeros(0),
    )
    envelope = concave_envelope(program, lower, upper)
    assert np.isfinite(envelope.chord).all()
    b = threshold + np.geomspace(1e-4, 60, 400)[:, None] / rate
    cuts = [envelope.cuts(envelope.demand(s * envelope.chord)) for s in (1.0, 0.5, 0.1)]
    for amount, value in zip(curve.value(b), utility.value(b), strict=True):
        inside = (amount >= lower) & (amount <= upper)
        above = envelope.value(amount)
        assert (above >= value - 1e-9)[inside].all()
        for height, slope in cuts:
            assert (height + slope * (amount - lower) >= value - 1e-9)[inside].all()


@pytest.mark.parametrize("whole", [False, True])
def test_a_problem_on_realised_tokens_against_all_splits(whole):
    utility = co.CumulativeSurge([0.9, 0.6, 0.7], [5.0, 12.0, 0.0], [0.2, 0.3, 0.15])
    curve = co.ExpectedTokens([5.0, 12.0, 0.0], [0.2, 0.3, 0.15], [0.8, 0.9, 0.7])
    tokens = co.Allocation(3, upper=60, integer=whole)
    problem = co.Problem(co.Maximize(co.sum(utility(tokens))), [co.sum(curve(tokens)) <= 30.0])
    solution = problem.solve()
    axes = np.meshgrid(*([np.arange(0.0, 61.0)] * 3), indexing="ij")
    menu = np.stack([axis.ravel() for axis in axes], axis=1)
    fits = curve.value(menu).sum(axis=1) <= 30.0
    best = utility.value(menu).sum(axis=1)[fits].max()
    assert solution.status == "optimal"
    assert solution.objective >= best * (1 - 2e-6)
    if whole:
        assert solution.objective <= best * (1 + 1e-9)
    assert curve.value(solution.allocation).sum() <= 30.0 * (1 + 1e-9)
