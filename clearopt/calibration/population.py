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
Statistics 31, 1982; Liu and Pierce, Biometrika 81, 1994); the one over p_i is exact. The gradient
is the posterior mean of that of the complete likelihood (Fisher's identity).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from clearopt.calibration.likelihood import Answers, BetaChance
from clearopt.validation import FloatArray

_LOCATION_NODES, _LOCATION_NODES_OF_JUMPS = 7, 21
_SHAPE_NODES, _SHAPE_NODES_OF_MANY = 5, 3
_MANY = 1000  # queries from which a coarser rule for the shape does
_STEPS = 60  # of climbing; ten are usual
_REACH = 0.5  # of a step, in deviations of the priors
_PATIENCE = 8  # steps without getting closer, where a law with kinks makes the gradient rough
_LEAST_SHARE = 0.1  # of the step that scoring proposes
_SETTLED = 0.03  # what is left to climb, in standard errors
_TURNS, _TURNS_OF_A_STEP = 12, 2  # of moving the nodes: from afar, and after a step
_STILL = 0.2  # move of the nodes, in posterior deviations
_SHRINK = 0.5  # nodes come together by this much at a time
_LEAST_DEVIATION = 1e-4  # of a posterior, so that nodes never coincide
_STEP = 1e-4  # of differences, in the parameters (all of them are of the order of 1)
_NARROWER = (0.3, 0.1, 0.03)  # priors of slopes that are tried, as parts of the widest
_SURE = 15.0  # greatest logit of a mean chance
_AGREEMENT = (-5.0, 9.0)  # of log(phi): from all-or-nothing queries to all alike


class Parameters(NamedTuple):
    """The population's parameters; logarithms where they are positive. d covariates."""

    location: float
    by_location: FloatArray  # (d,)
    log_deviation: float
    shape: float
    log_shape_deviation: float
    stretch: float
    chance: float
    by_chance: FloatArray  # (d,)
    slope: float
    log_agreement: float

    @classmethod
    def of(cls, vector: FloatArray, covariates: int) -> Parameters:
        """The parameter vector by name."""
        d, x = covariates, vector.tolist()
        return cls(
            x[0], vector[1 : 1 + d], x[1 + d], x[2 + d], x[3 + d], x[4 + d],
            x[5 + d], vector[6 + d : 6 + 2 * d], x[6 + 2 * d], x[7 + 2 * d],
        )  # fmt: skip


def parameter_names(covariates: int) -> tuple[str, ...]:
    """Their names, in the vector's order."""
    names: list[str] = []
    for field in Parameters._fields:
        many = field.startswith("by_")
        names += [f"{field}_{k}" for k in range(covariates)] if many else [field]
    return tuple(names)


@dataclass(frozen=True)
class Posterior:
    """What is known of each of n queries: Q nodes with weights.

    Attributes:
        u, v: (n, Q) location and shape at the nodes.
        weight: (n, Q), each row sums to 1.
        chance, chance_squared: (n, Q) E[p] and E[p^2] at the nodes.
    """

    u: FloatArray
    v: FloatArray
    weight: FloatArray
    chance: FloatArray
    chance_squared: FloatArray

    def mean(self, values: FloatArray) -> FloatArray:
        """(n,) the posterior mean of `values`, (n, Q)."""
        return np.einsum("nq,nq->n", self.weight, values)

    def deviation(self, values: FloatArray) -> FloatArray:
        """(n,) its posterior standard deviation."""
        variance = self.mean((values - self.mean(values)[:, None]) ** 2)
        return np.sqrt(variance)


@dataclass(frozen=True)
class Population:
    """A fitted population.

    Attributes:
        vector, covariance: the parameters (`Parameters.of`), and their covariance from the
            observed information.
        covariates: d.
        shared: whether shape and chance are one for all, and the location alone differs.
        log_likelihood: marginal, without the priors.
    """

    vector: FloatArray
    covariance: FloatArray
    covariates: int
    shared: bool
    log_likelihood: float

    @property
    def parameters(self) -> Parameters:
        """The parameters by name."""
        return Parameters.of(self.vector, self.covariates)

    def log_evidence(self, centre: FloatArray, width: FloatArray) -> float:
        """Logarithm of the answers' probability under the priors N(centre, width^2), which the fit
        had: Laplace's approximation of the integral over the parameters."""
        off = (self.vector - centre) / width
        volume = 0.5 * float(np.linalg.slogdet(self.covariance)[1]) - float(np.log(width).sum())
        return self.log_likelihood - 0.5 * float(off @ off) + volume

    def posterior(self, answers: Answers, design: FloatArray) -> Posterior:
        """What the population, covariates (n, d) and their answers say of n queries."""
        integral = _Integral(answers, design, self.shared)
        nodes = integral.settled(self.vector, integral.first_nodes(self.vector))
        return integral.posterior(self.vector, nodes)


def fit_population(
    answers: Answers,
    design: FloatArray,
    centre: FloatArray,
    width: FloatArray,
    shared: bool,
    start: FloatArray,
) -> Population:
    """Maximise the marginal likelihood times the priors N(centre, width^2), from `start`.

    A good start saves most of the way: with many answers a query, all locations move with the
    stretch.
    """
    integral = _Integral(answers, design, shared)
    vector = start
    nodes = integral.settled(vector, integral.first_nodes(vector))
    before, share, least, patience = math.inf, 1.0, math.inf, 0
    for _ in range(_STEPS):
        # Scoring with the outer product of the queries' scores for the information (Berndt, Hall,
        # Hall and Hausman, Annals of Economic and Social Measurement 3, 1974). There is no line
        # search: the value of a sum over nodes is less exact than its gradient.
        _, scores = integral.value_and_scores(vector, nodes)
        slope = scores.sum(axis=0) - (vector - centre) / width**2
        step = np.linalg.solve(scores.T @ scores + np.diag(width**-2.0), slope)
        left = math.sqrt(max(float(slope @ step), 0.0))  # in standard errors
        patience = 0 if left < 0.9 * least else patience + 1
        least = min(least, left)
        if left < _SETTLED or patience > _PATIENCE:
            break
        share = max(0.5 * share, _LEAST_SHARE) if left > before else min(1.5 * share, 1.0)
        before = left
        step *= min(share, _REACH / float(np.max(np.abs(step) / width)))
        vector = vector + step
        nodes = integral.settled(vector, nodes, turns=_TURNS_OF_A_STEP)
    nodes = integral.settled(vector, nodes)
    value, scores = integral.value_and_scores(vector, nodes)
    seen = integral.information(vector, nodes) if answers.law.smooth else scores.T @ scores
    information = seen + np.diag(width**-2.0)
    return Population(vector, _inverse(information), design.shape[1], shared, value)


def fit_population_with_covariates(
    answers: Answers,
    design: FloatArray,
    centre: FloatArray,
    width: FloatArray,
    shared: bool,
    start: FloatArray,
) -> Population:
    """`fit_population`, with priors of the covariates' slopes as wide as is most probable.

    Slopes of covariates that say nothing must be held near 0, or with a few dozen queries they
    follow chance; slopes of those that say much must not. So a narrower prior is taken, of the
    lengths' slopes and then of the chances', where it makes the answers more probable.
    """
    best = fit_population(answers, design, centre, width, shared, start)
    if not design.shape[1]:
        return best
    most, names = best.log_evidence(centre, width), parameter_names(design.shape[1])
    for kind in ("by_location",) if shared else ("by_location", "by_chance"):
        wide, slopes = width, np.array([name.startswith(kind) for name in names])
        for part in _NARROWER:
            narrow = np.where(slopes, part * wide, wide)
            found = fit_population(answers, design, centre, narrow, shared, best.vector)
            evidence = found.log_evidence(centre, narrow)
            if evidence <= most:
                break  # narrower still is less probable still
            best, most, width = found, evidence, narrow
    return best


def _inverse(information: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(0.5 * (information + information.T))
    return np.asarray((vectors / np.maximum(values, 1e-6 * values.max())) @ vectors.T)


class _Nodes(NamedTuple):
    """u (n, K, 1), v (n, K, L) and weights: sum(exp(log_joint + log_weight)) is the integral.

    `mean` and `deviation`, (n, 2), are where they were placed.
    """

    u: FloatArray
    v: FloatArray
    log_weight: FloatArray
    mean: FloatArray
    deviation: FloatArray


class _Joint(NamedTuple):
    """log of prior times likelihood at the nodes (n, K, L), and what it was made from."""

    total: FloatArray
    z: FloatArray  # (n, K, 1) standardised location
    z_v: FloatArray  # (n, K, L) standardised shape
    chance: BetaChance | None  # None where chances are shared


class _Integral:
    """The marginal likelihood of the answers to n queries."""

    def __init__(self, answers: Answers, design: FloatArray, shared: bool) -> None:
        self.answers, self.design, self.shared = answers, design, shared
        self.covariates = int(design.shape[1])
        shapes = _SHAPE_NODES_OF_MANY if answers.queries > _MANY else _SHAPE_NODES
        locations = _LOCATION_NODES_OF_JUMPS if answers.law.jumps else _LOCATION_NODES
        self.rule = _rule(locations, 1 if shared else shapes)

    def _parameters(self, vector: FloatArray) -> Parameters:
        return Parameters.of(vector, self.covariates)

    # ---------------------------------------------------------------- nodes
    def first_nodes(self, vector: FloatArray) -> _Nodes:
        """Nodes about where each query's own lengths and the population put it."""
        p, answers = self._parameters(vector), self.answers
        centre = p.location + self.design @ p.by_location
        variance = np.full(answers.queries, math.exp(2 * p.log_deviation))
        count = answers.lengths
        y = answers.y - p.stretch * answers.wrong
        if answers.law.name == "lognormal":
            noise = math.exp(2 * p.shape)
            total = np.bincount(answers.query, y, minlength=answers.queries)
            precision = count / noise + 1.0 / variance
            centre, variance = (total / noise + centre / variance) / precision, 1.0 / precision
        else:  # the threshold lies below the shortest answer
            shortest = np.full(answers.queries, np.inf)
            np.minimum.at(shortest, answers.query, y)
            below = np.minimum(centre, shortest - 0.5)
            variance = np.where(below < centre, np.minimum(variance, 0.25), variance)
            centre = below
        covariance = np.zeros((answers.queries, 2, 2))
        covariance[:, 0, 0] = variance
        covariance[:, 1, 1] = np.minimum(math.exp(2 * p.log_shape_deviation), 1.0 / (1.0 + count))
        return self._placed(np.column_stack([centre, np.full(centre.size, p.shape)]), covariance)

    def settled(self, vector: FloatArray, nodes: _Nodes, turns: int = _TURNS) -> _Nodes:
        """Nodes moved to each query's posterior mean and covariance, until they hardly move."""
        for _ in range(turns):
            weight = _normalised(self._joint(vector, nodes).total + nodes.log_weight)
            points = np.stack(np.broadcast_arrays(nodes.u, nodes.v), axis=-1)
            mean = np.einsum("nkl,nklc->nc", weight, points)
            off = points - mean[:, None, None]
            covariance = np.einsum("nkl,nklc,nkld->ncd", weight, off, off)
            moved = np.abs(mean - nodes.mean) / nodes.deviation
            # Nodes far from the mass see all of it at their edge: they must not shrink to a point.
            short = np.maximum(
                _SHRINK
                * nodes.deviation
                / np.sqrt(np.maximum(np.einsum("ncc->nc", covariance), 1e-300)),
                1.0,
            )
            covariance *= short[:, :, None] * short[:, None, :]
            nodes = self._placed(mean, covariance)
            if moved.max() < _STILL and (short <= 1.0).all():
                break
        return nodes

    def _placed(self, mean: FloatArray, covariance: FloatArray) -> _Nodes:
        (x, log_x), (y, log_y) = self.rule
        deviation = np.sqrt(np.maximum(np.einsum("ncc->nc", covariance), _LEAST_DEVIATION**2))
        if self.shared:
            deviation[:, 1] = 1.0  # there is nothing to move
        first = deviation[:, :1, None]
        u = mean[:, :1, None] + first * x[:, None]
        log_weight = log_x[:, None] + log_y + np.log(first)
        if self.shared:
            return _Nodes(u, mean[:, 1:, None] + 0.0 * u, log_weight, mean, deviation)
        lean = covariance[:, 0, 1, None, None] / first
        rest = covariance[:, 1, 1, None, None] - lean**2
        second = np.sqrt(np.maximum(rest, _LEAST_DEVIATION**2))
        v = mean[:, 1:, None] + lean * x[:, None] + second * y
        return _Nodes(u, v, log_weight + np.log(second), mean, deviation)

    # ---------------------------------------------------------------- values
    def _joint(self, vector: FloatArray, nodes: _Nodes) -> _Joint:
        p, answers, u = self._parameters(vector), self.answers, nodes.u
        mean = (p.location + self.design @ p.by_location)[:, None, None]
        z = (u - mean) * math.exp(-p.log_deviation)
        prior = -0.5 * z * z - p.log_deviation
        if self.shared:
            v = np.full_like(u, p.shape)
            seen = answers.log_lengths(u, v, p.stretch)
            seen = seen + answers.log_chance(u, v, p.stretch, np.full_like(u, p.chance))
            return _Joint(prior + seen, z, np.zeros_like(u), None)
        z_v = (nodes.v - p.shape) * math.exp(-p.log_shape_deviation)
        prior = prior - 0.5 * z_v * z_v - p.log_shape_deviation
        inner = (p.chance + self.design @ p.by_chance)[:, None, None] + p.slope * z
        inner = np.clip(inner, -_SURE, _SURE)
        agreement = math.exp(min(max(p.log_agreement, _AGREEMENT[0]), _AGREEMENT[1]))
        chance = BetaChance(
            answers,
            agreement * expit(inner),
            agreement * expit(-inner),
            answers.coefficients(u + 0.0 * nodes.v, nodes.v, p.stretch)
            if answers.mixed.size
            else None,
        )
        seen = answers.log_lengths(u, nodes.v, p.stretch) + chance.log_integral()
        return _Joint(prior + seen, z, z_v, chance)

    def value_and_scores(self, vector: FloatArray, nodes: _Nodes) -> tuple[float, FloatArray]:
        """log marginal likelihood, and every query's part of its gradient, (n, parameters)."""
        joint = self._joint(vector, nodes)
        total = joint.total + nodes.log_weight
        top = total.max(axis=(1, 2), keepdims=True)
        weight = np.exp(total - top)
        size = weight.sum(axis=(1, 2), keepdims=True)
        weight /= size
        p, d, design = self._parameters(vector), self.covariates, self.design
        at = {name: k for k, name in enumerate(Parameters._fields) if not name.startswith("by_")}
        at = {name: k + (d - 1) * (k > 1) + (d - 1) * (k > 7) for name, k in at.items()}
        scores = np.zeros((total.shape[0], vector.size))

        def mean(values: FloatArray) -> FloatArray:
            return np.einsum("nkl,nkl->n", weight, np.broadcast_to(values, weight.shape))

        in_mean, in_deviation = joint.z * math.exp(-p.log_deviation), joint.z**2 - 1.0
        if joint.chance is not None:
            by_inner, by_agreement = self._chance_slopes(joint.chance)
            in_mean = in_mean - by_inner * (p.slope * math.exp(-p.log_deviation))
            in_deviation = in_deviation - by_inner * (p.slope * joint.z)
            scores[:, at["chance"]] = mean(by_inner)
            scores[:, at["chance"] + 1 : at["slope"]] = scores[:, at["chance"], None] * design
            scores[:, at["slope"]] = mean(by_inner * joint.z)
            scores[:, at["log_agreement"]] = mean(by_agreement)
            scores[:, at["shape"]] = mean(joint.z_v) * math.exp(-p.log_shape_deviation)
            scores[:, at["log_shape_deviation"]] = mean(joint.z_v**2 - 1.0)
        scores[:, at["location"]] = mean(in_mean)
        scores[:, 1 : at["log_deviation"]] = scores[:, :1] * design
        scores[:, at["log_deviation"]] = mean(in_deviation)
        likely = ("shape", "stretch", "chance") if self.shared else ("stretch",)
        for name in likely:
            if name == "stretch" and self.answers.law.jumps:
                continue  # it stays where it was put
            step = np.zeros(vector.size)
            step[at[name]] = _STEP
            change = self._seen(vector + step, nodes) - self._seen(vector - step, nodes)
            scores[:, at[name]] = mean(change / (2 * _STEP))
        return float((top + np.log(size)).sum()), scores

    def _seen(self, vector: FloatArray, nodes: _Nodes) -> FloatArray:
        """What of the likelihood depends on the stretch, or, where they are shared, on the rest."""
        p, answers = self._parameters(vector), self.answers
        if self.shared:
            v = np.full_like(nodes.u, p.shape)
            inner = np.full_like(nodes.u, p.chance)
            seen = answers.log_lengths(nodes.u, v, p.stretch)
            return seen + answers.log_chance(nodes.u, v, p.stretch, inner)
        seen = answers.log_lengths(nodes.u, nodes.v, p.stretch, only_wrong=True)
        if answers.mixed.size:
            seen = seen + self._joint_chance(vector, nodes).log_integral()
        return seen

    def _joint_chance(self, vector: FloatArray, nodes: _Nodes) -> BetaChance:
        chance = self._joint(vector, nodes).chance
        assert chance is not None
        return chance

    @staticmethod
    def _chance_slopes(chance: BetaChance) -> tuple[FloatArray, FloatArray]:
        """Derivatives of the chances' likelihood in the logit of their mean, and in log(phi)."""
        in_a, in_b = chance.slopes()
        a, b = chance.a, chance.b
        return a * b / (a + b) * (in_a - in_b), a * in_a + b * in_b

    def information(self, vector: FloatArray, nodes: _Nodes) -> FloatArray:
        """The negative second derivative of the log marginal likelihood, by differences."""
        columns = []
        for k in range(vector.size):
            step = np.zeros(vector.size)
            step[k] = _STEP
            before, after = (
                self.value_and_scores(vector + sign * step, nodes)[1].sum(axis=0)
                for sign in (-1.0, 1.0)
            )
            columns.append((before - after) / (2 * _STEP))
        return np.array(columns)

    def posterior(self, vector: FloatArray, nodes: _Nodes) -> Posterior:
        """The queries' posteriors at these parameters."""
        joint, p = self._joint(vector, nodes), self._parameters(vector)
        shape = joint.total.shape
        if joint.chance is None:
            first = np.full(shape, float(expit(p.chance)))
            second, v = first**2, np.full(shape, p.shape)
        else:
            plain = joint.chance.log_integral()
            first, second = (np.exp(joint.chance.log_integral(k) - plain) for k in (1, 2))
            v = nodes.v
        flat = [
            np.broadcast_to(x, shape).reshape(shape[0], -1) for x in (nodes.u, v, first, second)
        ]
        weight = _normalised(joint.total + nodes.log_weight).reshape(shape[0], -1)
        return Posterior(flat[0], flat[1], weight, flat[2], flat[3])


@lru_cache(maxsize=8)
def _rule(
    first: int, second: int
) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
    """Nodes and log weights in two dimensions, for densities without the factor 1 / sqrt(2 pi)."""
    rules = []
    for count in (first, second):
        points, weights = np.polynomial.hermite_e.hermegauss(count)
        log_weight = np.log(weights) + 0.5 * points**2 - 0.5 * math.log(2 * math.pi)
        rules.append((points, log_weight))
    return rules[0], rules[1]


def _normalised(log_weight: FloatArray) -> FloatArray:
    weight = np.exp(log_weight - log_weight.max(axis=(1, 2), keepdims=True))
    return weight / weight.sum(axis=(1, 2), keepdims=True)
