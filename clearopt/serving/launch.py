"""How vLLM's own server is started, with settings that work on a machine without a GPU too."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clearopt.errors import MissingExtraError
from clearopt.serving.environment import (
    CPU_SERVER_SETTINGS,
    INSTALL_HINT,
    QUIET_SETTINGS,
    is_cpu_build,
    vllm_installed,
)
from clearopt.serving.models import resolve_model
from clearopt.serving.reasoning import Reasoning

_BATCHED_TOKENS = 8192


def server_command(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    reasoning: Reasoning | None = None,
    options: Sequence[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """The command that serves a model through vLLM, and its environment.

    Args:
        model: see `resolve_model`; it is served under this name.
        host, port: where to listen.
        reasoning: how the model marks its thinking, so that it can be limited.
        options: handed on to vLLM.

    Raises:
        MissingExtraError: vLLM is not installed.
        ModelError: there is no such model.
    """
    if not vllm_installed():
        raise MissingExtraError(f"serving needs vLLM, which is not installed: {INSTALL_HINT}")
    location = resolve_model(model)
    # As a module: the `vllm` command of the CPU build does not find its own distribution.
    command = [sys.executable, "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", location, "--served-model-name", model]
    command += ["--host", host, "--port", str(port)]
    environment = dict(os.environ)
    settings = dict(QUIET_SETTINGS)
    if Path(location).is_dir():
        settings["HF_HUB_OFFLINE"] = "1"
    if is_cpu_build():
        settings |= CPU_SERVER_SETTINGS
        command += ["--enforce-eager", "--dtype", "float32", "--no-enable-chunked-prefill"]
        command += ["--max-num-batched-tokens", str(_BATCHED_TOKENS)]
    for name, value in settings.items():
        environment.setdefault(name, value)
    if reasoning is not None:
        marks = {"reasoning_start_str": reasoning.start, "reasoning_end_str": reasoning.end}
        command += ["--reasoning-config", json.dumps(marks)]
    return [*command, *options], environment
