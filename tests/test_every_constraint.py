"""One problem with every kind of constraint at once, checked by hand and by SCIP."""

import numpy as np
import pytest

import clearopt as co

N = 60
TENANTS = ("acme", "globex", "initech")


class Batch:
    """Sixty queries of three tenants, and what each has."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.tenant = rng.permutation(np.repeat(TENANTS, N // 3))
        self.vip = rng.random(N) < 0.1
        self.kv_bytes = rng.uniform(1e5, 3e5, N)
        self.threshold, self.rate = rng.uniform(10, 80, N), 10 ** rng.uniform(-1.6, -0.5, N)
        self.scale, self.ends = rng.uniform(0.5, 1, N), rng.uniform(0.3, 0.9, N)
        self.caps = {"acme": 1500.0, "globex": 1100.0, "initech": np.inf}
        self.least = np.where(self.vip, 0, 16)

    def problem(self):
        tokens = co.Allocation(
            N, lower=self.least, upper=400, integer=True, semicontinuous=True, name="tokens"
        )
        accuracy = co.CumulativeSurge(self.scale, self.threshold, self.rate)(tokens)
        cost = co.ExpectedTokens(self.threshold, self.rate, self.ends)(tokens)
        return co.Problem(
            co.Maximize(co.sum(accuracy)),
            [
                (co.sum(tokens) <= 4000).named("budget"),
                (co.sum(tokens, by=self.tenant) <= self.caps).named("tenant cap"),
                (co.mean(accuracy, by=self.tenant) >= 0.25).named("fair floor"),
                (tokens[self.vip] >= 64).named("vip"),
                (self.kv_bytes @ tokens <= 7e8).named("KV cache"),
                (co.sum(cost) <= 2600).named("realised"),
                (co.sum(tokens[:6]) == 300).named("exactly"),
            ],
        )

    def check(self, solution):
        """By hand: none of the package's own code is used."""
        b = np.asarray(solution.allocation, dtype=float)
        x = np.maximum(b - self.threshold, 0.0)
        y = self.rate * x
        decay = np.exp(-y)
        accuracy = self.scale * (1 - (1 + y) * decay)
        cost = b - self.ends * (y - 2 + (2 + y) * decay) / self.rate
        assert (b == np.round(b)).all()
        assert ((b == 0) | (b >= self.least)).all()
        assert (b <= 400).all()
        assert (b[self.vip] >= 64).all()
        assert b.sum() <= 4000
        assert self.kv_bytes @ b <= 7e8 * (1 + 1e-9)
        assert cost.sum() <= 2600 * (1 + 1e-9)
        assert b[:6].sum() == 300
        for name in TENANTS:
            mine = self.tenant == name
            assert b[mine].sum() <= self.caps[name]
            assert accuracy[mine].mean() >= 0.25 * (1 - 1e-9)
        assert accuracy.sum() == pytest.approx(solution.objective, rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_kind_of_constraint_at_once(seed):
    batch = Batch(seed)
    problem = batch.problem()
    dual = problem.solve(time_limit=30)
    assert dual.allocation is not None, dual.summary()
    batch.check(dual)
    assert 0 <= dual.gap < 1e-5, dual.summary()
    assert set(dual.prices) == {c.name for c in problem.constraints}
    assert set(dual.marginal_values) == set(dual.prices)
    scip = problem.solve("scip", time_limit=15)
    assert dual.objective <= scip.bound * (1 + 1e-6)
    if scip.allocation is not None:
        batch.check(scip)
        assert scip.objective <= dual.bound * (1 + 1e-6)


def test_it_can_be_read():
    text = str(Batch(0).problem().explain())
    for piece in ("tenant cap", "fair floor", "KV cache", "C_i(b_i)", "60 whole"):
        assert piece in text, text
