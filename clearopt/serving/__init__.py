"""From an allocation to answers: vLLM in process, with each query's tokens as its `max_tokens`."""

from clearopt.serving.engine import Engine, EngineError, Generation, vllm_installed
from clearopt.serving.models import ModelError, resolve_model

__all__ = ["Engine", "EngineError", "Generation", "ModelError", "resolve_model", "vllm_installed"]
