"""Empirical Bayes: queries as draws from a population, each shrunk towards it as its data allow.

    location   u_i ~ N(x_i beta, omega^2)
    shape      v_i ~ N(v, omega_v^2)
    chance     p_i | u_i ~ Beta(phi pi_i, phi (1 - pi_i)),
               logit pi_i = alpha + x_i alpha_x + slope (u_i - x_i beta) / omega

with the likelihood of `laws`. Hard queries take long answers, so that the length of a query's
answers says something of its chance, and the other way round: that is `slope`. The population's
parameters maximise the marginal likelihood times weakly informative priors, which matter where
there is next to nothing to learn from. The integrals over (u_i, v_i) are Gauss-Hermite sums around
each query's posterior mean, scaled to its posterior covariance (Naylor and Smith, Applied
Statistics 31, 1982; Liu and Pierce, Biometrika 81, 1994); the one over p_i is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from clearopt.calibration.laws import LAWS, Law
from clearopt.calibration.likelihood import (
    Batch,
    beta_chance,
    coefficients,
    known_chance,
    length_terms,
    room,
)
from clearopt.validation import FloatArray

_LOCATION_NODES, _SHAPE_NODES, _SHAPE_NODES_FEW = 7, 5, 3
_MANY = 1000  # queries from which a coarser rule for the shape does: the rest is integrated away
_ROUNDS = 8  # of placing nodes and climbing; two or three are needed
_SETTLED = 1e-3  # change of the parameters, in their prior's deviations
_LEAST_DEVIATION = 1e-4  # of a posterior, so that nodes never coincide
_STEP = 1e-4  # of the differences that give the observed information


class Layout(NamedTuple):
    """What the parameter vector holds: names in order, with priors N(centre, width^2)."""

    names: tuple[str, ...]
    centre: FloatArray
    width: FloatArray

    def __getitem__(self, name: Any) -> Any:
        return self.names.index(name)


class Parameters(NamedTuple):
    """The population's parameters, in their natural order; logarithms where they are positive."""

    location: Any
    by_location: Any  # (d,)
    log_deviation: Any
    shape: Any
    log_shape_deviation: Any
    stretch: Any
    chance: Any
    by_chance: Any  # (d,)
    slope: Any
    log_agreement: Any


def unpack(vector: Any, covariates: int) -> Parameters:
    """The parameter vector by name."""
    d = covariates
    return Parameters(
        vector[0], vector[1 : 1 + d], vector[1 + d], vector[2 + d], vector[3 + d], vector[4 + d],
        vector[5 + d], vector[6 + d : 6 + 2 * d], vector[6 + 2 * d], vector[7 + 2 * d],
    )  # fmt: skip


def parameter_names(covariates: int) -> tuple[str, ...]:
    """Their names, in the vector's order."""
    return (
        "location", *(f"location_by_{k}" for k in range(covariates)), "log_deviation", "shape",
        "log_shape_deviation", "stretch", "chance", *(f"chance_by_{k}" for k in range(covariates)),
        "slope", "log_agreement",
    )  # fmt: skip


class Posterior(NamedTuple):
    """What is known of each query: nodes with weights that sum to 1 over the last axis.

    Attributes:
        u, v: (n, Q) location and shape at the nodes.
        weight: (n, Q).
        chance, chance_squared: (n, Q) E[p] and E[p^2] at the nodes.
        a, b: (n, Q) the beta law of p at the nodes before its rollouts.
    """

    u: FloatArray
    v: FloatArray
    weight: FloatArray
    chance: FloatArray
    chance_squared: FloatArray
    a: FloatArray
    b: FloatArray

    def mean(self, values: FloatArray) -> FloatArray:
        """(n,) the posterior mean of `values`, (n, Q)."""
        return np.einsum("nq,nq->n", self.weight, values)


@dataclass(frozen=True)
class Population:
    """A fitted population.

    Attributes:
        law: name of the law of length.
        shared: whether shape and chance are the same for all (only the location differs).
        covariates: their number d.
        vector: the parameters (`unpack`).
        covariance: of the parameters, from the observed information.
        value: log marginal likelihood (without the priors).
        wide: mean and deviation of the law of strays.
    """

    law: str
    shared: bool
    covariates: int
    vector: FloatArray
    covariance: FloatArray
    value: float
    wide: FloatArray

    @property
    def parameters(self) -> Parameters:
        """The parameters by name."""
        return unpack(self.vector, self.covariates)

    def posterior(self, batch: Batch, count: int) -> Posterior:
        """What the population and their rollouts say of the first `count` queries of a batch."""
        engine = _Engine(LAWS[self.law], self.shared, self.covariates, batch)
        nodes = engine.settle(self.vector, engine.start(self.vector), turns=6)
        return engine.posterior(self.vector, nodes, count)


def fit_population(
    law: Law, batch: Batch, start: FloatArray, centre: FloatArray, width: FloatArray, shared: bool
) -> Population:
    """Maximise the marginal likelihood times the priors N(centre, width^2) from `start`."""
    covariates = batch.design.shape[1]
    engine = _Engine(law, shared, covariates, batch)
    vector = start
    nodes = engine.settle(vector, engine.start(vector), turns=4)
    for _ in range(_ROUNDS):

        def loss(x: FloatArray, nodes: _Nodes = nodes) -> tuple[float, FloatArray]:
            value, slope = engine.value_and_slope(x, nodes)
            off = (x - centre) / width
            return 0.5 * off @ off - value, off / width - slope

        before = vector
        result = minimize(loss, vector, jac=True, method="L-BFGS-B", options={"maxiter": 60})
        vector = np.asarray(result.x)
        nodes = engine.settle(vector, nodes, turns=2)
        if np.max(np.abs(vector - before) / width) < _SETTLED:
            break
    value, _ = engine.value_and_slope(vector, nodes)
    return Population(
        law=law.name,
        shared=shared,
        covariates=covariates,
        vector=vector,
        covariance=_covariance(lambda x: loss(x, nodes)[1], vector),
        value=float(value),
        wide=np.asarray(batch.wide),
    )


def _covariance(slope: Callable[[FloatArray], FloatArray], at: FloatArray) -> FloatArray:
    """The inverse of the derivative of `slope`, by central differences."""
    columns = []
    for k in range(at.size):
        step = np.zeros(at.size)
        step[k] = _STEP
        columns.append((slope(at + step) - slope(at - step)) / (2 * _STEP))
    information = 0.5 * (np.array(columns) + np.array(columns).T)
    values, vectors = np.linalg.eigh(information)
    return np.asarray((vectors / np.maximum(values, 1e-8)) @ vectors.T)


class _Nodes(NamedTuple):
    u: FloatArray  # (n, Q)
    v: FloatArray
    log_weight: FloatArray  # (n, Q), so that sum(exp(log_joint + log_weight)) is the integral


class _Engine:
    """Evaluates one batch; compiled once for its sizes."""

    def __init__(self, law: Law, shared: bool, covariates: int, batch: Batch) -> None:
        self.law, self.shared, self.batch = law, shared, batch
        n = batch.real.shape[0]
        few = n > _MANY
        shape_nodes = 1 if shared else (_SHAPE_NODES_FEW if few else _SHAPE_NODES)
        self.rule = _rule(_LOCATION_NODES, shape_nodes)
        ties = room(int(batch.ties.max(initial=0)))
        self.key = (law.name, shared, covariates, ties)

    # ---------------------------------------------------------------- nodes
    def start(self, vector: FloatArray) -> _Nodes:
        """Nodes around what each query's own lengths suggest."""
        p, batch = unpack(vector, batch_covariates(self.batch)), self.batch
        n = batch.real.shape[0]
        mean = p.location + batch.design @ p.by_location
        y = batch.y - p.stretch * ~batch.right
        count = np.bincount(batch.query, batch.counts, minlength=n)[:n]
        total = np.bincount(batch.query, batch.counts * y, minlength=n)[:n]
        spread = math.exp(p.shape) if self.law.name == "lognormal" else 0.5
        prior = math.exp(2 * p.log_deviation)
        if self.law.name == "lognormal":
            precision = count / spread**2 + 1.0 / prior
            centre = (total / spread**2 + mean / prior) / precision
            variance = 1.0 / precision
        else:
            centre, variance = mean, np.full(n, prior)
            # A threshold lies below the shortest right answer.
            shortest = np.full(n, np.inf)
            right = (batch.counts > 0) & batch.right
            np.minimum.at(shortest, batch.query[right], batch.y[right])
            low = np.minimum(centre, shortest - 0.5)
            variance = np.where(low < centre, np.minimum(variance, 0.25), variance)
            centre = low
        shape_variance = np.minimum(math.exp(2 * p.log_shape_deviation), 1.0 / (1.0 + count))
        covariance = np.zeros((n, 2, 2))
        covariance[:, 0, 0], covariance[:, 1, 1] = variance, shape_variance
        return self._place(np.column_stack([centre, np.full(n, p.shape)]), covariance)

    def settle(self, vector: FloatArray, nodes: _Nodes, turns: int) -> _Nodes:
        """Nodes moved to each query's posterior mean and covariance, some times over."""
        for _ in range(turns):
            log_joint = np.asarray(self._call(_log_joint, vector, nodes))
            weight = _normalised(log_joint + nodes.log_weight)
            points = np.stack([nodes.u, nodes.v], axis=-1)
            mean = np.einsum("nq,nqk->nk", weight, points)
            off = points - mean[:, None]
            covariance = np.einsum("nq,nqk,nql->nkl", weight, off, off)
            nodes = self._place(mean, covariance)
        return nodes

    def _place(self, mean: FloatArray, covariance: FloatArray) -> _Nodes:
        z, log_weight = self.rule
        floor = _LEAST_DEVIATION
        first = np.sqrt(np.maximum(covariance[:, 0, 0], floor**2))
        lean = np.where(self.shared, 0.0, covariance[:, 0, 1] / first)
        second = np.sqrt(np.maximum(covariance[:, 1, 1] - lean**2, floor**2))
        u = mean[:, :1] + first[:, None] * z[None, :, 0]
        v = mean[:, 1:] + lean[:, None] * z[None, :, 0] + second[:, None] * z[None, :, 1]
        size = np.log(first) + (0.0 if self.shared else np.log(second))
        return _Nodes(u, v, log_weight[None, :] + size[:, None])

    # ---------------------------------------------------------------- values
    def value_and_slope(self, vector: FloatArray, nodes: _Nodes) -> tuple[float, FloatArray]:
        """log marginal likelihood of all queries, and its gradient, for fixed nodes."""
        value, slope = self._call(_value_and_slope, vector, nodes)
        return float(value), np.asarray(slope, dtype=np.float64)

    def posterior(self, vector: FloatArray, nodes: _Nodes, count: int) -> Posterior:
        """The first `count` queries' posteriors."""
        log_joint, chance, squared, a, b = (
            np.asarray(x)[:count] for x in self._call(_moments, vector, nodes)
        )
        v = np.full_like(nodes.v, unpack(vector, batch_covariates(self.batch)).shape)
        return Posterior(
            nodes.u[:count],
            (v if self.shared else nodes.v)[:count],
            _normalised(log_joint + nodes.log_weight[:count]),
            chance,
            squared,
            a,
            b,
        )

    def _call(self, function: Any, vector: FloatArray, nodes: _Nodes) -> Any:
        with jax.enable_x64(True):
            return _compiled(function, self.key)(jnp.asarray(vector), self.batch, nodes)


def batch_covariates(batch: Batch) -> int:
    """d, the number of covariates."""
    return int(batch.design.shape[1])


@lru_cache(maxsize=64)
def _compiled(function: Any, key: tuple[str, bool, int, int]) -> Any:
    name, shared, covariates, ties = key

    def call(vector: Any, batch: Batch, nodes: _Nodes) -> Any:
        return function(LAWS[name], shared, covariates, ties, vector, batch, nodes)

    return jax.jit(call)


def _joint_parts(
    law: Law, shared: bool, covariates: int, ties: int, vector: Any, batch: Batch, nodes: _Nodes
) -> tuple[Any, Any, Any, Any]:
    """log prior and likelihood of the lengths, (n, Q); what the chances need: e, a, b."""
    p = unpack(vector, covariates)
    mean = (p.location + batch.design @ p.by_location)[:, None]
    deviation = jnp.exp(p.log_deviation)
    z = (nodes.u - mean) / deviation
    total = -0.5 * z * z - p.log_deviation
    v = jnp.full_like(nodes.v, 1.0) * p.shape if shared else nodes.v
    if not shared:
        z_v = (nodes.v - p.shape) * jnp.exp(-p.log_shape_deviation)
        total = total - 0.5 * z_v * z_v - p.log_shape_deviation
    total = total + length_terms(law, batch, nodes.u, v, p.stretch)
    if shared:
        inner = jnp.full_like(nodes.u, 1.0) * p.chance
        log_p, log_q = -jnp.logaddexp(0.0, -inner), -jnp.logaddexp(0.0, inner)
        total = total + known_chance(law, batch, nodes.u, v, p.stretch, log_p, log_q)
        return total, None, inner, inner
    inner = p.chance + (batch.design @ p.by_chance)[:, None] + p.slope * z
    inner = jnp.clip(inner, -15.0, 15.0)
    agreement = jnp.exp(jnp.clip(p.log_agreement, -5.0, 9.0))
    a, b = agreement * jax.nn.sigmoid(inner), agreement * jax.nn.sigmoid(-inner)
    mixed = ties or batch.rest.shape[1]
    e = coefficients(law, batch, nodes.u, v, p.stretch, ties) if mixed else None
    return total, e, a, b


def _log_joint(law: Law, shared: bool, *rest: Any) -> Any:
    total, e, a, b = _joint_parts(law, shared, *rest)
    batch = rest[-2]
    return total if shared else total + beta_chance(batch, e, a, b)


def _value(law: Law, shared: bool, covariates: int, ties: int, vector: Any, batch: Any, nodes: Any) -> Any:  # fmt: skip  # noqa: E501
    log_joint = _log_joint(law, shared, covariates, ties, vector, batch, nodes)
    return (batch.real * logsumexp(log_joint + nodes.log_weight, axis=-1)).sum()


def _value_and_slope(*arguments: Any) -> Any:
    return jax.value_and_grad(_value, argnums=4)(*arguments)


def _moments(law: Law, shared: bool, *rest: Any) -> Any:
    total, e, a, b = _joint_parts(law, shared, *rest)
    batch = rest[-2]
    if shared:
        chance = jax.nn.sigmoid(a)
        return total, chance, chance**2, chance, 1.0 - chance
    plain = beta_chance(batch, e, a, b)
    first = jnp.exp(beta_chance(batch, e, a, b, 1) - plain)
    second = jnp.exp(beta_chance(batch, e, a, b, 2) - plain)
    return total + plain, first, second, a, b


@lru_cache(maxsize=8)
def _rule(first: int, second: int) -> tuple[FloatArray, FloatArray]:
    """Nodes z, (Q, 2), and log weights for integrals over z of any function (not times phi)."""
    columns = []
    for count in (first, second):
        points, weights = np.polynomial.hermite_e.hermegauss(count)
        log_weight = np.log(weights) + 0.5 * points**2 - 0.5 * math.log(2 * math.pi)
        columns.append((points, log_weight if count > 1 else np.zeros(1)))
    (x, log_x), (y, log_y) = columns
    z = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    return z, (log_x[:, None] + log_y[None, :]).ravel()


def _normalised(log_weight: FloatArray) -> FloatArray:
    weight = np.exp(log_weight - log_weight.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def logistic(inner: Any) -> Any:
    """1 / (1 + e^-x)."""
    return expit(inner)


Indices = NDArray[np.intp]
