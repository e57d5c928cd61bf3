"""From calibration rollouts to each query's utility, from what its prompt shows alone."""

from clearopt.calibration.curves import Estimate, FittedCurves
from clearopt.calibration.diagnostics import Goodness
from clearopt.calibration.fitting import fit_curves
from clearopt.calibration.rollouts import CalibrationError, Rollouts
from clearopt.calibration.surge_model import SurgeModel, fit_surge_model
from clearopt.calibration.traces import Run, Traces, read_rollouts

__all__ = [
    "CalibrationError",
    "Estimate",
    "FittedCurves",
    "Goodness",
    "Rollouts",
    "Run",
    "SurgeModel",
    "Traces",
    "fit_curves",
    "fit_surge_model",
    "read_rollouts",
]
