"""Arguments that the language would not tell by the formulation's own names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import clearopt as co

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def check_utility(argument: str, utility: object) -> None:
    """Raise unless it is a utility; `argument` is what the user knows it by."""
    if not isinstance(utility, co.Utility):
        raise co.DeclarationError(
            f"{argument} is {utility!r}, not a utility; give one such as "
            "co.CumulativeSurge(scale, threshold, rate), with numbers or one number a query"
        )


def check_not_negative(argument: str, numbers: ArrayLike, meaning: str) -> None:
    """Raise where one of the numbers is below 0."""
    array = np.atleast_1d(np.asarray(numbers))
    if array.dtype.kind not in "biuf" or not (array < 0).any():
        return  # what is no number at all, the language refuses
    first = int(np.argmax(array < 0))
    place = f"[{first}]" if np.ndim(numbers) else ""
    raise co.DeclarationError(
        f"{argument}{place} = {array.flat[first].item()!r}: must be at least 0 ({meaning})"
    )
