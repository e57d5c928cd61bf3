"""From what is known of a query before it is answered, to its utility: predicted curves.

features = prompt_features(prompts)
predictor = fit_predictor(features.take(seen), rollouts)
utilities = predictor.predict(features.take(new)).utilities
"""

from clearopt.prediction.decision import LinearThresholds, fit_to_value
from clearopt.prediction.encoders import HuggingFaceEncoder, WordLlamaEncoder, encode
from clearopt.prediction.features import (
    Features,
    as_features,
    prompt_features,
    read_features,
    rollout_features,
)
from clearopt.prediction.predictor import (
    Predicted,
    PredictionWarning,
    Predictor,
    fit_predictor,
)

__all__ = [
    "Features",
    "HuggingFaceEncoder",
    "LinearThresholds",
    "Predicted",
    "PredictionWarning",
    "Predictor",
    "WordLlamaEncoder",
    "as_features",
    "encode",
    "fit_predictor",
    "fit_to_value",
    "prompt_features",
    "read_features",
    "rollout_features",
]
