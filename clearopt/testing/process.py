"""What a solve must leave as it found it: the program, the process, the terminal."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from clearopt.program import Program


def fingerprint(program: Program) -> str:
    """A digest of every array of a program, its families' parameters included."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            digest.update(repr((value.shape, value.dtype)).encode() + value.tobytes())
        elif sparse.issparse(value):
            for part in (value.data, value.indices, value.indptr):
                add(part)
        elif isinstance(value, tuple):
            for part in value:
                add(part)
        elif hasattr(value, "family"):
            add(value.index)
            add(tuple(np.asarray(parameter) for parameter in value.family.parameters))
        else:
            digest.update(repr(value).encode())

    for name in sorted(program.__dataclass_fields__):
        add(getattr(program, name))
    return digest.hexdigest()


def process_state() -> dict[str, Any]:
    """Settings of the whole process that a solve has no business with."""
    jax = sys.modules.get("jax")
    handled = (signal.SIGINT, signal.SIGTERM)
    return {
        "NumPy's error state": np.geterr(),
        "NumPy's print options": repr(np.get_printoptions()),
        "NumPy's global random state": repr(np.random.get_state()),  # noqa: NPY002
        "Python's random state": random.getstate(),
        "JAX's 64 bits": None if jax is None else jax.config.jax_enable_x64,
        "signal handlers": [signal.getsignal(number) for number in handled],
        "warning filters": [str(entry) for entry in warnings.filters],
        "the working directory": os.getcwd(),
        "the environment": dict(os.environ),
        "standard streams": (sys.stdout, sys.stderr),
    }


@dataclass
class Printed:
    """What was written to the standard streams, once the block is left."""

    text: str = ""


@contextmanager
def unprinted() -> Iterator[Printed]:
    """Catch what Python, or a library below it, writes to stdout and stderr."""
    printed = Printed()
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    with tempfile.TemporaryFile() as target:
        kept = [os.dup(number) for number in (1, 2)]
        # Python's own streams may be stand-ins, a notebook's or a test runner's, with no number.
        text = open(os.dup(target.fileno()), "w", closefd=True)  # noqa: SIM115
        try:
            for number in (1, 2):
                os.dup2(target.fileno(), number)
            sys.stdout = sys.stderr = text
            yield printed
        finally:
            sys.stdout, sys.stderr = streams
            text.close()
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
        target.seek(0)
        printed.text = target.read().decode(errors="replace")
