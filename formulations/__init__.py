"""Ready-made problems, each written with the public face of clearopt and nothing else."""

from clearopt.formulations.tenant_shares import tenant_shares
from clearopt.formulations.token_budget import token_budget

__all__ = ["tenant_shares", "token_budget"]
