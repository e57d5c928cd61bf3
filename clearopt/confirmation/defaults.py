"""What calibration found for the shipped reasoner, for machines that cannot generate.

These are `calibration` and `ample_cap` of the report.json of `clearopt confirm` with its default
settings. Renew them when the reasoner is trained anew; a test holds them against a fresh
calibration.
"""

from __future__ import annotations

from typing import Any

from clearopt.calibration import SurgeModel

DEFAULT_AMPLE_CAP = 210
"""Tokens a query that are ample for the shipped reasoner."""

# fmt: off
_CALIBRATION: dict[str, Any] = {
    "names": [
        "add", "add_total", "power", "power_total", "product", "product_total", "prompt_words",
        "repeat", "repeat_total", "steps", "subtract", "subtract_total",
    ],
    "means": [
        4.09, 96.12, 0.08, 2.13333, 1.17333, 30.28, 41.94, 2.44667, 13.1067, 12.3133, 4.52333,
        106.743,
    ],
    "deviations": [
        2.66994, 65.1791, 0.346795, 9.54999, 1.16188, 31.0153, 18.3308, 1.75893, 9.81505,
        6.11025, 2.84654, 72.2376,
    ],
    "length": 90.2233,
    "threshold": [
        0.819556, 0.0912771, -0.0130499, 0.00113959, 0.00110354, 0.0220307, 0.0167407, 0.0897747,
        0.0316019, 0.0946804, 0.0897747, 0.0784337, -0.0016053,
    ],
    "spread": [
        0.144343, -0.0057235, 0.0301578, -0.000379225, -0.000367228, 0.014065, -0.00878713,
        0.0139442, 0.0298129, -0.0178836, 0.0139442, 0.0111838, 0.00912315,
    ],
    "scale": [
        0.198323, -0.352386, 0.281314, -1.48212, -0.945884, 0.249013, -0.26111, -0.382365,
        -0.128439, 0.0962229, -0.382365, -0.331952, 0.071183,
    ],
    "link": "logistic",
    "summary": {
        "queries": 300,
        "rollouts": 1200,
        "finished": 1.0,
        "accuracy": 0.600833,
        "mean_length": 90.2233,
        "brier": 0.177575,
        "brier_base": 0.239833,
        "length_score": 9.51965,
    },
}
# fmt: on


def default_model() -> SurgeModel:
    """The utilities' model of the shipped reasoner."""
    return SurgeModel.from_dict(_CALIBRATION)
