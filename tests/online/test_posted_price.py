"""Posted prices: what is promised holds whoever comes, and learning leads to the optimum."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clearopt as co
from clearopt.online import (
    Markets,
    PostedPrice,
    offline_optimum,
    price_of_history,
    regret_study,
    run_posted,
)


def pool(seed, n):
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)
    return co.Lognormal(
        1 / (1 + np.exp(difficulty - 1.5)), np.exp(6.5 + 0.9 * difficulty), np.full(n, 0.35)
    )


CURVES = [
    co.CumulativeSurge(0.9, 100.0, 0.02),
    co.ShiftedSurge(0.7, 400.0, 0.01),
    co.Lognormal(1.0, 50.0, 0.5),
    co.Tabulated([100, 300], [0.2, 0.8], "step"),
    co.Tabulated([0, 10], [0.1, 0.0]),
    co.CumulativeSurge(0.0, 10.0, 0.1),
    co.Hill(1.0, 1e5, 2.0),
]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_budget_holds_whoever_comes(data):
    endless = data.draw(st.booleans())
    budget = data.draw(st.floats(1.0, 5000.0))
    limits = {"rate": budget / 10} if endless else {"budget": budget, "horizon": 10}
    market = PostedPrice(**limits, step=data.draw(st.floats(0.01, 50.0)))
    waiting = []
    for _ in range(data.draw(st.integers(1, 25))):  # may be more than the horizon
        curve = data.draw(st.sampled_from(CURVES))
        upper = data.draw(st.sampled_from([0.0, 1.0, 500.0, math.inf]))
        quote = market.quote(curve, upper)
        assert quote.tokens == math.floor(quote.tokens)
        assert 0 <= quote.tokens <= upper
        expected = float(np.ravel(curve.value(quote.tokens))[0])
        assert quote.accuracy == pytest.approx(expected, abs=1e-12)
        assert math.isfinite(market.price)
        assert market.price > 0
        if quote.funded:
            waiting.append(quote)
        if waiting and data.draw(st.booleans()):
            done = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            market.settle(done, data.draw(st.floats(0.0, 1.0)) * done.tokens)
        assert market.spent + market.reserved <= market.budget * (1 + 1e-12)
        assert market.reserved == pytest.approx(sum(q.tokens for q in waiting), abs=1e-6)


def test_a_query_buys_its_best_response_at_the_price():
    curve = co.ShiftedSurge(0.7, 400.0, 0.01)
    market = PostedPrice(budget=1e6, horizon=10, price=5e-4, whole=False)
    quote = market.quote(curve, 2000.0)
    assert quote.tokens == pytest.approx(float(curve.demand(5e-4, 0.0, 2000.0)), rel=1e-9)
    dear = PostedPrice(budget=1e6, horizon=10, price=0.1)
    assert dear.quote(curve, 2000.0).tokens == 0


def test_the_price_rises_with_what_is_bought_and_falls_with_what_is_not():
    market = PostedPrice(budget=1000.0, horizon=10, price=1e-3)
    market.quote(co.CumulativeSurge(0.9, 300.0, 0.02), 900.0)
    assert market.price > 1e-3
    market = PostedPrice(budget=1000.0, horizon=10, price=1.0)
    market.quote(co.CumulativeSurge(0.9, 300.0, 0.02), 900.0)
    assert market.price < 1.0


def test_a_burst_pays_one_price_and_is_served_in_its_order():
    market = PostedPrice(budget=1000.0, horizon=3, price=1e-6)
    quotes = market.quotes(co.CumulativeSurge(np.ones(3), np.full(3, 300.0), 0.05), 500.0)
    assert len({quote.price for quote in quotes}) == 1
    assert [quote.number for quote in quotes] == [0, 1, 2]
    assert quotes[0].tokens == quotes[1].tokens > 300
    assert quotes[2].tokens == 0  # what is left is less than its threshold
    with pytest.raises(co.DeclarationError, match="3 members"):
        market.quote(co.CumulativeSurge(np.ones(3), 300.0, 0.05))


def test_what_is_not_used_is_given_out_again():
    stream = pool(1, 400)
    budget = 500.0 * 400
    caps = run_posted(PostedPrice(budget=budget, horizon=400), stream, 20_000.0)
    needed = np.asarray(stream.median) * 0.8
    used = run_posted(PostedPrice(budget=budget, horizon=400), stream, 20_000.0, needed=needed)
    late = run_posted(
        PostedPrice(budget=budget, horizon=400), stream, 20_000.0, needed=needed, delay=30
    )
    assert caps.tokens.sum() <= budget
    for run in (used, late):
        assert run.spent.sum() <= budget < run.tokens.sum()
        assert run.value > caps.value


def test_history_tells_the_price_of_what_comes():
    upper, rate = 20_000.0, 600.0
    stream = pool(2, 800)
    offline = offline_optimum(stream, rate * 800, upper).prices["budget"]
    learnt = price_of_history(pool(3, 800), rate, upper)
    assert learnt == pytest.approx(offline, rel=0.3)
    with pytest.raises(co.DeclarationError, match="ample"):
        price_of_history(pool(3, 50), 1e6, upper)


def test_regret_is_small_and_grows_slower_than_the_stream():
    study = regret_study(lambda n, seed: pool(seed, n), rate=600.0, upper=20_000.0,
                         horizons=(200, 800), draws=3)  # fmt: skip
    short, long = study.rows
    assert long.relative < short.relative < 0.05
    assert long.regret > -1e-6 * long.optimum  # the offline bound is above any allocation
    assert study.exponent < 0.9
    assert "regret grows" in study.table()


def test_a_market_that_forgets_follows_a_jump():
    easy = co.Lognormal(np.ones(300), np.full(300, 100.0), 0.3)
    hard = co.Lognormal(np.ones(40), np.full(40, 2000.0), 0.3)
    moved = {}
    for memory in (20.0, 1e6):
        market = PostedPrice(rate=150.0, burst=0.0, price=1e-3, memory=memory)
        run_posted(market, easy, 20_000.0)
        before = market.price
        run_posted(market, hard, 20_000.0)
        moved[memory] = math.log(market.price / before)
    assert moved[20.0] < 2 * moved[1e6] < 0  # nobody buys at the old price


def test_a_floor_raises_its_tier_and_is_met():
    n, rng = 1500, np.random.default_rng(0)
    tier = np.where(rng.random(n) < 0.3, "gold", "free")
    stream, budget = pool(4, n), 600.0 * n
    plain = run_posted(PostedPrice(budget=budget, horizon=n), stream, 20_000.0, tiers=tier)
    before = plain.accuracy[tier == "gold"].mean()
    market = PostedPrice(budget=budget, horizon=n, floors={"gold": before + 0.06})
    run = run_posted(market, stream, 20_000.0, tiers=tier)
    state = market.tiers["gold"]
    assert state.queries == (tier == "gold").sum()
    assert state.accuracy == pytest.approx(run.accuracy[tier == "gold"].mean())
    assert state.accuracy > before + 0.04
    assert run.tokens.sum() <= budget


def test_markets_share_nothing():
    markets = Markets.shared(1000.0, {"a": 0.5, "b": 0.5}, {"a": 5, "b": 5}, price=1e-6)
    curve = co.CumulativeSurge(0.9, 300.0, 0.05)
    for _ in range(5):
        markets.quote("a", curve, 480.0)
    a, b = markets.states()
    assert (a.queries, b.queries) == (5, 0)
    assert a.reserved <= 500
    assert b.reserved == 0
    assert markets.quote("b", curve, 480.0).funded
    assert "market" in str(markets)
    with pytest.raises(co.DeclarationError, match="no market 'c'; there are 'a', 'b'"):
        markets.quote("c", curve)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "give a budget with the horizon"),
        ({"budget": 10.0}, "give a budget with the horizon"),
        ({"budget": 10.0, "horizon": 5, "rate": 1.0}, "or else a rate"),
        ({"budget": -1.0, "horizon": 5}, "budget = -1.0: must be positive"),
        ({"rate": math.nan}, "rate = nan"),
        ({"rate": 1.0, "floors": {"x": 1.5}}, r"floors\['x'\] = 1.5"),
        ({"rate": 1.0, "burst": -1.0}, "burst = -1.0"),
        ({"rate": 1.0, "learnt_from": -1}, "learnt_from = -1"),
    ],
)
def test_bad_markets_are_refused(options, match):
    with pytest.raises(co.DeclarationError, match=match):
        PostedPrice(**options)


def test_bad_settlements_are_refused():
    market = PostedPrice(budget=1000.0, horizon=2, price=1e-6)
    quote = market.quote(co.CumulativeSurge(0.9, 300.0, 0.05), 480.0)
    with pytest.raises(co.DeclarationError, match="exceeds its caps"):
        market.settle(quote, quote.tokens + 1)
    market.settle(quote, 10)
    with pytest.raises(co.DeclarationError, match="settled once"):
        market.settle(quote, 10)


@pytest.mark.parametrize(
    ("shares", "horizons", "match"),
    [
        ({"a": 0.7, "b": 0.7}, {"a": 1, "b": 1}, "shares sum to 1.4"),
        ({"a": 0.0}, {"a": 1}, r"shares\['a'\] = 0.0"),
        ({"a": 0.5}, {}, "'a' is missing"),
        ({"a": 0.5}, {"a": 1, "b": 1}, "'b' has no share"),
    ],
)
def test_bad_shares_are_refused(shares, horizons, match):
    with pytest.raises(co.DeclarationError, match=match):
        Markets.shared(100.0, shares, horizons)
