"""From an allocation to answers: vLLM in process or behind a URL, each query's tokens its cap."""

from clearopt.serving.endpoint import Endpoint, answer_all
from clearopt.serving.engine import Engine, vllm_installed
from clearopt.serving.failures import (
    AttemptError,
    BusyError,
    EngineError,
    LostError,
    RefusedError,
)
from clearopt.serving.models import ModelError, resolve_model
from clearopt.serving.reasoning import Reasoning
from clearopt.serving.replicas import Replicas
from clearopt.serving.requests import Generation, Prefix, Request
from clearopt.serving.server import Server

__all__ = [
    "AttemptError",
    "BusyError",
    "Endpoint",
    "Engine",
    "EngineError",
    "Generation",
    "LostError",
    "ModelError",
    "Prefix",
    "Reasoning",
    "RefusedError",
    "Replicas",
    "Request",
    "Server",
    "answer_all",
    "resolve_model",
    "vllm_installed",
]
