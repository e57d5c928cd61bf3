"""Both branches against mpmath at 50 digits, and NumPy against JAX."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from clearopt.utilities import lambertw

BRANCH_POINT = -0.36787944117144233  # the double next to -1/e, on its upper side
ACCURACY = 1e-15


def exact(x, branch):
    with mpmath.workdps(50):
        return mpmath.lambertw(mpmath.mpf(float(x)), branch).real


def relative_errors(values, references):
    with mpmath.workdps(50):
        return np.array(
            [
                float(abs(mpmath.mpf(float(v)) - r) / abs(r)) if r != 0 else abs(float(v))
                for v, r in zip(values, references, strict=True)
            ]
        )


def near_branch_point():
    steps = np.concatenate([np.arange(1, 40), np.geomspace(40, 2**51, 60)]).astype(np.int64)
    ulps = BRANCH_POINT + steps * np.spacing(BRANCH_POINT) * -1.0
    return np.concatenate([ulps, BRANCH_POINT + np.geomspace(1e-16, 0.3, 120)])


PRINCIPAL = np.concatenate(
    [
        near_branch_point(),
        -np.geomspace(5e-324, 0.36, 150),
        [0.0],
        np.geomspace(5e-324, 1e-5, 80),
        np.geomspace(1e-5, 20.0, 300),
        np.geomspace(20.0, 1.797e308, 200),
    ]
)
LOWER = np.concatenate([near_branch_point(), -np.geomspace(5e-324, 0.3678, 400)])
LOWER = LOWER[LOWER < 0]


def test_principal_branch_to_full_precision():
    errors = relative_errors(lambertw.principal(PRINCIPAL), [exact(x, 0) for x in PRINCIPAL])
    worst = int(np.argmax(errors))
    assert errors[worst] <= ACCURACY, (PRINCIPAL[worst], errors[worst])


def test_lower_branch_to_full_precision():
    errors = relative_errors(lambertw.lower(LOWER), [exact(x, -1) for x in LOWER])
    worst = int(np.argmax(errors))
    assert errors[worst] <= ACCURACY, (LOWER[worst], errors[worst])


def test_lower_branch_from_a_logarithm_far_beyond_the_doubles():
    deltas = np.concatenate([np.geomspace(1e-300, 1.0, 200), np.geomspace(1.0, 1e300, 300)])
    references = []
    with mpmath.workdps(400):
        for delta in deltas:
            length = 1 + mpmath.mpf(float(delta))
            if delta < 500:
                root = -mpmath.lambertw(-mpmath.exp(-length), -1).real
            else:  # t - log t = length, by Newton
                root = length + mpmath.log(length)
                for _ in range(12):
                    root -= (root - mpmath.log(root) - length) * root / (root - 1)
            references.append(root)
    errors = relative_errors(lambertw.lower_from_log(deltas), references)
    worst = int(np.argmax(errors))
    assert errors[worst] <= ACCURACY, (deltas[worst], errors[worst])


def test_the_ends():
    assert lambertw.principal(np.array([0.0]))[0] == 0
    np.testing.assert_allclose(lambertw.principal(np.array([np.e])), [1.0], rtol=ACCURACY)
    assert lambertw.lower(np.array([0.0]))[0] == -np.inf
    assert lambertw.lower_from_log(np.array([0.0, -1e-9, -5.0])).tolist() == [1.0, 1.0, 1.0]
    # Rounding may push an argument just below -1/e; there both branches are -1.
    below = np.array([np.nextafter(BRANCH_POINT, -1), -0.4, -1e300])
    np.testing.assert_allclose(lambertw.principal(below), -1.0, rtol=0, atol=3e-8)
    np.testing.assert_allclose(lambertw.lower(below), -1.0, rtol=0, atol=3e-8)


def test_no_warning_and_no_nan_over_the_whole_range():
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(lambertw.principal(PRINCIPAL)).all()
        assert np.isfinite(lambertw.lower(LOWER)).all()
        assert np.isfinite(lambertw.lower_from_log(np.geomspace(1e-300, 1e150, 99))).all()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambertw.principal, PRINCIPAL),
        (lambertw.lower, LOWER),
        (lambertw.lower_from_log, np.geomspace(1e-300, 1e300, 500)),
    ],
)
def test_jax_agrees_with_numpy_to_two_ulp(function, arguments):
    # Compiled code takes subnormal numbers for zero; what W does there is not at stake.
    arguments = arguments[np.abs(arguments) > 1e-300]
    with jax.enable_x64(True):
        traced = np.asarray(jax.jit(function)(jnp.asarray(arguments)))
        assert traced.dtype == np.float64
    np.testing.assert_array_max_ulp(function(arguments), traced, maxulp=2)
