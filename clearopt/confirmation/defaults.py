"""What calibration found for the shipped reasoner, for machines that cannot generate.

These are `calibration` and `ample_cap` of the report.json of `clearopt confirm` with its default
settings. Renew them when the reasoner is trained anew; a test holds them against a fresh
calibration.
"""

from __future__ import annotations

from typing import Any

from clearopt.calibration import SurgeModel

DEFAULT_AMPLE_CAP = 163
"""Tokens a query that are ample for the shipped reasoner."""

_CALIBRATION: dict[str, Any] = {
    "names": [
        "add",
        "add_total",
        "power",
        "power_total",
        "product",
        "product_total",
        "prompt_words",
        "repeat",
        "repeat_total",
        "steps",
        "subtract",
        "subtract_total",
    ],
    "means": [
        3.37667,
        57.53,
        0.07,
        1.31667,
        2.19,
        47.67,
        38.29,
        2.69667,
        11.9767,
        11.0967,
        2.76333,
        48.69,
    ],
    "deviations": [
        2.52087,
        45.2389,
        0.353695,
        7.22747,
        1.835,
        44.4077,
        19.9436,
        2.15669,
        10.3029,
        6.64786,
        2.25994,
        45.7793,
    ],
    "length": 53.8328,
    "threshold": [
        1.31659,
        0.15445,
        0.00221439,
        0.0454128,
        0.0455609,
        0.109996,
        0.00530513,
        0.156133,
        0.0545867,
        0.180999,
        0.156133,
        0.138485,
        -0.0190844,
    ],
    "spread": [
        0.175057,
        0.0294226,
        -0.0200983,
        -0.039766,
        -0.0401006,
        0.0407331,
        -0.0411402,
        0.0338299,
        0.0170695,
        -0.0189718,
        0.0338299,
        0.0235544,
        -9.14254e-05,
    ],
    "scale": [
        -1.93549,
        -0.268353,
        -0.292371,
        -0.720973,
        0.0842205,
        -0.0492443,
        0.0109552,
        -0.0766556,
        0.312718,
        -0.325667,
        -0.0766556,
        -0.0717636,
        -0.612345,
    ],
    "link": "chain",
    "summary": {
        "queries": 300,
        "rollouts": 1200,
        "finished": 1.0,
        "accuracy": 0.254167,
        "mean_length": 53.8328,
        "brier": 0.130642,
        "brier_base": 0.189566,
        "length_score": 5.23786,
    },
}


def default_model() -> SurgeModel:
    """The utilities' model of the shipped reasoner."""
    return SurgeModel.from_dict(_CALIBRATION)
