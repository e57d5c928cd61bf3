"""`differentiable(problem)`: a solved problem as a layer of a JAX program."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clearopt.derivatives import local, relaxed
from clearopt.derivatives.callback import solved_outside
from clearopt.derivatives.implicit import Conditions
from clearopt.derivatives.inputs import Inputs, Names, completed
from clearopt.derivatives.lines import Lines
from clearopt.derivatives.local import Local
from clearopt.derivatives.price_search import Found
from clearopt.derivatives.relaxed import Relaxed
from clearopt.derivatives.saddle_point import SaddlePoint
from clearopt.derivatives.separate_rows import obstacle
from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.program import Program
from clearopt.solvers import Backend, get_solver, solve_program

if TYPE_CHECKING:
    from clearopt.problem import Problem

_REMEMBERED = 4  # solves kept for a second question about them


PriceSearch = Literal["auto", "jax", "solver"]


def differentiable(
    problem: Problem,
    solver: str | Backend = "dual",
    price_search: PriceSearch = "auto",
    **options: Any,
) -> Layer:
    """The problem as pure JAX functions of its numbers.

        layer = co.differentiable(problem)
        with jax.enable_x64(True):
            jax.grad(layer.value)({"right_hand_side": {"budget": 4000.0}})

    Args:
        problem: as declared; the numbers it has now are the layer's defaults.
        solver: the back-end that solves it, in a callback, whenever value or allocation are
            evaluated.
        price_search: where the prices of `dual_value` are found: "jax", compiled and batched, for
            continuous tokens, utilities in closed form and rows that share no query; "solver", in
            a callback; "auto", in JAX where the problem is such a one.
        options: as in `Problem.solve`.

    Raises:
        UnsupportedProblemError: a utility cannot be traced by JAX, or `price_search` is "jax" and
            the problem is not of that kind; says why.
    """
    if price_search not in ("auto", "jax", "solver"):
        raise DeclarationError(
            f"differentiable: price_search = {price_search!r}: must be 'auto', 'jax' or 'solver'"
        )
    return Layer(problem.program, get_solver(solver), options, price_search)


class Relaxation(NamedTuple):
    """What is bought at the best prices, (n,) each, in tokens but for `share`.

    A query that is indifferent there buys `many` with probability `share` and else `few`; the
    others buy `many` = `few`. The rows are met in expectation, and the expected utilities are
    `share * U(many) + (1 - share) * U(few)`.
    """

    many: Any
    few: Any
    share: Any

    @property
    def tokens(self) -> Any:
        """(n,) tokens in expectation; they meet the rows."""
        return self.share * self.many + (1.0 - self.share) * self.few


class Layer:
    """The dual value, the optimal value and the allocation of a problem, for JAX to differentiate.

    Each function takes `inputs`, a nested dictionary like `layer.inputs` of which any part may be
    left out (then the problem's own numbers stand there), and works under `jax.grad`, `jax.jvp`,
    `jax.jit` and `jax.vmap`, for first derivatives; where prices are found in JAX, `dual_value`,
    `prices` and `relaxed` for higher ones too. They compute in float64 and have to be called
    where JAX has it: within `jax.enable_x64(True)`, or with `jax_enable_x64` set.

    Numbers that no problem can have (a negative rate, NaN) raise, or give NaN where prices are
    found in JAX and the numbers are traced; numbers that leave nothing feasible give NaN.

    Attributes:
        inputs: the problem's own numbers, NumPy arrays by name (`derivatives.inputs` lists them).
        queries: by family, the positions (m,) of its queries in the allocation.
        not_in_jax: why prices are not found in JAX, None where they are.
    """

    def __init__(
        self,
        program: Program,
        backend: Backend,
        options: dict[str, Any],
        price_search: PriceSearch = "auto",
    ) -> None:
        self._names = Names(program)
        self._backend, self._options = backend, dict(options)
        if "engine" in backend.own_options:
            # The solver runs inside a callback, where JAX must not wait for JAX.
            self._options.setdefault("engine", "numpy")
        # Value, allocation and gradients at the same numbers take one solve.
        self._remembered: dict[tuple[str, bytes], Any] = {}
        self.inputs = self._names.current()
        self.queries = self._names.queries
        with jax.enable_x64(True):
            self._lines = Lines(self._names)
            self._conditions = Conditions(program, self._lines)
            jax.eval_shape(self._lines.utility_slope, jnp.zeros(program.n), self.inputs)
        self.not_in_jax: str | None = "price_search is 'solver'"
        if price_search != "solver":
            self.not_in_jax = obstacle(program)
        if price_search == "jax" and self.not_in_jax is not None:
            raise UnsupportedProblemError(self._needs_jax("price_search = 'jax'"))
        self._sign = sign = program.sign
        if self.not_in_jax is None:
            self._saddle_point = SaddlePoint(self._names, self._lines)
        self._dual_value = _differentiated(
            self._at_prices, lambda found: sign * found.value, self._dual_change
        )
        self._value = _differentiated(
            self._at_optimum, lambda found: sign * found.objective, self._value_change
        )
        self._allocation = _differentiated(
            self._at_optimum, lambda found: found.tokens, self._conditions.response
        )

    # ------------------------------------------------------------------ what it computes
    def dual_value(self, inputs: Inputs | None = None) -> Any:
        """The least bound that prices prove, (): an upper bound where the user maximises.

        Its derivative in right-hand sides and floor levels is the best prices, in everything else
        the Lagrangian's at what is bought at them; where a query is indifferent between two
        purchases, at the mixture of both that meets the limits.
        """
        completed_inputs = self._complete(inputs)
        if self.not_in_jax is not None:
            return self._dual_value(completed_inputs)
        return self._sign * self._found(completed_inputs).value

    def prices(self, inputs: Inputs | None = None) -> dict[str, Any]:
        """The best prices, by constraint as `inputs["right_hand_side"]`, as `Solution.prices`.

        Raises:
            UnsupportedProblemError: prices are not found in JAX; their derivative is not known.
        """
        completed_inputs = self._complete(inputs)
        if self.not_in_jax is not None:
            raise UnsupportedProblemError(self._needs_jax("prices"))
        price = self._saddle_point.row_prices(self._found(completed_inputs))
        return {
            group.name: price[group.rows].reshape(
                np.shape(self.inputs["right_hand_side"][group.name])
            )
            for group in self._names.program.constraints
            if group.name in self.inputs["right_hand_side"]
        }

    def relaxed(self, inputs: Inputs | None = None) -> Relaxation:
        """What is bought at the best prices; who is indifferent there, with a share.

        Its derivative is that of the conditions that prices and purchases obey: the indifferent
        stay indifferent, the rows met, the other marginal utilities at their price.

        Raises:
            UnsupportedProblemError: prices are not found in JAX.
        """
        completed_inputs = self._complete(inputs)
        if self.not_in_jax is not None:
            raise UnsupportedProblemError(self._needs_jax("relaxed"))
        found = self._found(completed_inputs)
        return Relaxation(found.many, found.few, found.share)

    def value(self, inputs: Inputs | None = None) -> Any:
        """The objective at the best allocation, ().

        Its derivative is the Lagrangian's at the allocation and its marginal values, the funded
        set as it is (envelope theorem). Of whole tokens, which stand still, the value in a limit
        is a staircase; the derivative is then the marginal value, what one more unit buys.
        """
        return self._value(self._complete(inputs))

    def allocation(self, inputs: Inputs | None = None) -> Any:
        """The best allocation, (n,) tokens.

        Its derivative is that of the equal-marginal conditions with the funded set as it is. It is
        0 for queries that get nothing, for whole tokens and at kinks (measured tables), and the
        bound's for who sits at a bound.
        """
        return self._allocation(self._complete(inputs))

    def utilities(self, tokens: Any, inputs: Inputs | None = None) -> Any:
        """U_i(tokens_i), (n,): expected accuracies at any allocation; nothing is solved."""
        completed_inputs = self._complete(inputs)
        return self._lines.utility(jnp.asarray(tokens, dtype=jnp.float64), completed_inputs)

    # ------------------------------------------------------------------ inputs
    def _complete(self, inputs: Inputs | None) -> Inputs:
        if jnp.result_type(float) != jnp.float64:
            raise DeclarationError(
                "derivatives: JAX is set to 32 bits, in which budgets lose their digits; call it "
                "within `with jax.enable_x64(True):`, gradient and jit included"
            )
        given = completed(inputs, self.inputs)
        return jax.tree.map(_fitted, given, self.inputs)

    def _found(self, inputs: Inputs) -> Found:
        """The saddle point found in JAX; numbers that are known are checked as the solver would."""
        leaves, structure = jax.tree.flatten(inputs)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            self._names.program_with(jax.tree.unflatten(structure, map(np.asarray, leaves)))
        found: Found = self._saddle_point.found(inputs)
        return found

    def _needs_jax(self, what: str) -> str:
        return (
            f"derivatives: {what} needs prices that are found in JAX, for continuous tokens, "
            "utilities in closed form and rows that share no query; here they are not: "
            f"{self.not_in_jax}"
        )

    # ------------------------------------------------------------------ solving
    def _at_optimum(self, inputs: Inputs) -> Local:
        return self._outside(self._solve_locally, local.nothing_known, inputs)

    def _at_prices(self, inputs: Inputs) -> Relaxed:
        return self._outside(self._solve_dual, relaxed.nothing_known, inputs)

    def _outside(self, solve: Any, nothing: Any, inputs: Inputs) -> Any:
        leaves, structure = jax.tree.flatten(inputs)

        def found(values: list[Any]) -> Any:
            key = (solve.__name__, _digest(values))
            known = self._remembered.get(key)
            if known is None:
                known = solve(self._names.program_with(jax.tree.unflatten(structure, values)))
                if len(self._remembered) >= _REMEMBERED:
                    self._remembered.clear()
                self._remembered[key] = known
            return known

        empty = nothing(self._names.program)
        shapes = [np.shape(part) for part in empty]
        return type(empty)(*solved_outside(found, leaves, shapes))

    def _solve_locally(self, program: Program) -> Local:
        solution = solve_program(program, self._backend, **self._options)
        if solution.allocation is None:
            return local.nothing_known(program)
        tokens = np.asarray(solution.allocation, dtype=np.float64)
        return local.local_optimum(program, tokens)

    def _solve_dual(self, program: Program) -> Relaxed:
        options = dict(self._options)
        if "node_limit" in self._backend.own_options:
            options["node_limit"] = 1  # prices are all that is wanted
        solution = solve_program(program, self._backend, **options)
        if solution.row_prices is None and solution.floor_prices is None:
            return relaxed.nothing_known(program)
        return relaxed.saddle_point(program, solution.row_prices, solution.floor_prices)

    # ------------------------------------------------------------------ derivatives
    def _dual_change(self, at: Relaxed, inputs: Inputs, change: Inputs) -> Any:
        nu = self._conditions.multipliers(at)

        def lagrangian(inputs: Inputs) -> Any:
            gains = at.share * self._conditions.charged(at.many, nu, inputs)
            gains += (1.0 - at.share) * self._conditions.charged(at.few, nu, inputs)
            return gains.sum() + nu @ self._conditions.levels(inputs)

        return self._sign * self._change(lagrangian, at, inputs, change)

    def _value_change(self, at: Local, inputs: Inputs, change: Inputs) -> Any:
        nu = self._conditions.multipliers(at)

        def lagrangian(inputs: Inputs) -> Any:
            gains = self._conditions.charged(at.tokens, nu, inputs)
            return gains.sum() + nu @ self._conditions.levels(inputs)

        return self._sign * self._change(lagrangian, at, inputs, change)

    def _change(self, lagrangian: Any, at: Any, inputs: Inputs, change: Inputs) -> Any:
        _, found = jax.jvp(lagrangian, (inputs,), (change,))
        for name, worth in (("upper", at.above), ("lower", at.below)):
            found += worth @ jnp.where(jnp.isfinite(inputs[name]), change[name], 0.0)
        return found


def _digest(values: list[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        digest.update(np.ascontiguousarray(value).data)
    return digest.digest()


def _fitted(given: Any, default: Any) -> Any:
    """A leaf as float64 in the default's shape."""
    array = jnp.asarray(given, dtype=jnp.float64)
    if array.shape != default.shape and array.shape:
        raise DeclarationError(
            f"derivatives: an input of shape {array.shape} stands where {default.shape} belongs"
        )
    return jnp.broadcast_to(array, default.shape)


def _differentiated(
    solve: Callable[[Inputs], Any],
    read: Callable[[Any], Any],
    change: Callable[[Any, Inputs, Inputs], Any],
) -> Any:
    """What `read` makes of the solution, its derivative given by `change`."""

    @jax.custom_jvp
    def function(inputs: Inputs) -> Any:
        return read(solve(inputs))

    @function.defjvp
    def rule(primals: tuple[Inputs], tangents: tuple[Inputs]) -> tuple[Any, Any]:
        (inputs,), (moved,) = primals, tangents
        found = solve(inputs)
        return read(found), change(found, inputs, moved)

    return function
