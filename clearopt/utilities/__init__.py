"""Families of S-shaped utilities of tokens."""

from clearopt.utilities.base import BestResponse, Utility
from clearopt.utilities.surge import CumulativeSurge, ShiftedSurge

__all__ = ["BestResponse", "CumulativeSurge", "ShiftedSurge", "Utility"]
