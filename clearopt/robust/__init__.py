"""Allocation under uncertain thresholds: expected utilities, chance constraints, a noise study."""

from clearopt.robust.expected import chance_constrained, expected_utility, mixture_utility
from clearopt.robust.noise import NoiseRow, NoiseStudy, noise_study

__all__ = [
    "NoiseRow",
    "NoiseStudy",
    "chance_constrained",
    "expected_utility",
    "mixture_utility",
    "noise_study",
]
