"""Ready-made problems, each written with the public face of clearopt and nothing else."""

from clearopt.formulations.best_of_n import best_of_n
from clearopt.formulations.fairness_floors import fairness_floors
from clearopt.formulations.guaranteed_service import guaranteed_service
from clearopt.formulations.model_routing import ModelOption, model_routing
from clearopt.formulations.promised_accuracy import promised_accuracy
from clearopt.formulations.realised_tokens import realised_tokens
from clearopt.formulations.tenant_shares import tenant_shares
from clearopt.formulations.token_budget import token_budget
from clearopt.formulations.tokens_and_memory import tokens_and_memory

__all__ = [
    "ModelOption",
    "best_of_n",
    "fairness_floors",
    "guaranteed_service",
    "model_routing",
    "promised_accuracy",
    "realised_tokens",
    "tenant_shares",
    "token_budget",
    "tokens_and_memory",
]
