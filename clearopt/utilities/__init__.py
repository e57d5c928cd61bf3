"""Families of S-shaped utilities of tokens, and of cost curves."""

from clearopt.utilities.ablations import Quadratic, Triangular
from clearopt.utilities.base import BestResponse, Utility
from clearopt.utilities.cost_curves import CostCurve, ExpectedTokens
from clearopt.utilities.logistic import Hill, Logistic
from clearopt.utilities.lognormal import Lognormal, LognormalTokens
from clearopt.utilities.saturating import BestOfN, SaturatingExponential
from clearopt.utilities.sigmoidal import Sigmoidal
from clearopt.utilities.surge import CumulativeSurge, ShiftedSurge
from clearopt.utilities.tabulated import Tabulated

__all__ = [
    "BestOfN",
    "BestResponse",
    "CostCurve",
    "CumulativeSurge",
    "ExpectedTokens",
    "Hill",
    "Logistic",
    "Lognormal",
    "LognormalTokens",
    "Quadratic",
    "SaturatingExponential",
    "ShiftedSurge",
    "Sigmoidal",
    "Tabulated",
    "Triangular",
    "Utility",
]
