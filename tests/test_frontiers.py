"""A frontier is what the solves one by one would say, without their allocations."""

import csv

import numpy as np
import pytest

import clearopt as co

BUDGETS = [200.0, 350.0, 500.0, 900.0]


def declared(budget=400.0, n=8):
    rng = np.random.default_rng(0)
    tokens = co.Allocation(n, upper=300.0, name="tokens")
    accuracy = co.CumulativeSurge(rng.uniform(0.6, 1, n), rng.uniform(5, 40, n), 0.1)(tokens)
    return co.Problem(
        co.Maximize(co.sum(accuracy)),
        [(co.sum(tokens) <= budget).named("budget"), tokens[0] <= 250.0],
    )


def test_it_holds_what_the_solves_say():
    problem = declared()
    frontier = co.frontier(problem, "budget", BUDGETS)
    assert len(frontier) == 4
    for k, solution in enumerate(problem.sweep("budget", BUDGETS)):
        assert frontier.limit[k] == BUDGETS[k]
        assert frontier.objective[k] == pytest.approx(solution.objective, rel=1e-9)
        assert frontier.bound[k] == pytest.approx(solution.bound, rel=1e-9)
        assert frontier.price[k] == pytest.approx(solution.prices["budget"], rel=1e-6)
        assert frontier.marginal_value[k] == pytest.approx(
            solution.marginal_values["budget"], rel=1e-6
        )
        assert frontier.funded_share[k] == solution.funded.mean()
        assert frontier.tokens[k] == pytest.approx(solution.allocation.sum())
        assert frontier.status[k] == "optimal"
    assert np.all(frontier.gap <= 1e-6)
    assert frontier.queries == 8
    assert frontier.limited == "sum(tokens)"
    assert problem.solve().program.right_hand_side[0] == 400.0  # left as it was


def test_a_parameter_is_put_back():
    budget = co.Parameter(400.0, name="tokens in all")
    problem = declared(budget)
    frontier = co.frontier(problem, budget, BUDGETS)
    assert budget.value == 400.0
    assert frontier.name == "tokens in all"
    np.testing.assert_allclose(frontier.tokens, BUDGETS)
    assert np.isnan(frontier.price).all()
    lazily = problem.sweep_lazily(budget, BUDGETS)
    next(lazily)
    lazily.close()
    assert budget.value == 400.0


def test_where_nothing_is_feasible_the_numbers_are_missing():
    tokens = co.Allocation(4, upper=50.0, name="tokens")
    accuracy = co.CumulativeSurge(0.9, 10.0, 0.1)(tokens)
    problem = co.Problem(
        co.Minimize(co.sum(tokens)),
        [(co.mean(accuracy) >= 0.3).named("floor"), (co.sum(tokens) <= 90).named("most")],
    )
    frontier = co.frontier(problem, "floor", [0.2, 0.8], time_limit=5)
    assert frontier.minimize
    assert frontier.status[1] == "infeasible"
    assert np.isnan(frontier.objective[1])
    assert np.isnan(frontier.tokens[1])
    assert frontier.objective[0] == pytest.approx(frontier.tokens[0])


@pytest.mark.parametrize("values", [[], ["many"], [[1.0, 2.0]], [np.nan]])
def test_values_that_are_no_numbers_are_refused(values):
    with pytest.raises(co.DeclarationError, match="frontier: values"):
        co.frontier(declared(), "budget", values)


def test_a_name_that_is_none_says_which_there_are():
    with pytest.raises(co.DeclarationError, match=r"'bugdet'; there are 'budget'"):
        co.frontier(declared(), "bugdet", BUDGETS)


def test_the_table_is_written_with_every_digit(tmp_path):
    frontier = co.frontier(declared(), "budget", BUDGETS)
    with frontier.to_csv(tmp_path / "deep" / "frontier.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["objective"]) for row in rows] == frontier.objective.tolist()
    assert rows[0]["status"] == "optimal"
    assert [row["limit"] for row in frontier.table()] == BUDGETS
    lines = str(frontier).splitlines()
    assert lines[0].split()[:3] == ["budget", "objective", "bound"]
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    frontier = co.frontier(declared(), "budget", BUDGETS)
    for ending in ("png", "svg"):
        assert frontier.plot(tmp_path / f"frontier.{ending}").stat().st_size > 10_000
    text = (tmp_path / "frontier.svg").read_text()
    assert "<svg" in text
    nothing = co.frontier(declared(), "budget", BUDGETS[:1], solver="price")
    if np.isnan(nothing.objective).all():
        with pytest.raises(co.DeclarationError, match="no solve found"):
            nothing.plot(tmp_path / "nothing.png")
