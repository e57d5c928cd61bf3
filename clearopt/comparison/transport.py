"""How programs and back-ends reach a process of their own.

A program goes as one of clearopt's own files. What no file can hold (a utility that is a Python
function) is pickled, if the other process can import what the pickle names; nothing that the
running script defines can be, so that it stays where it is.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.files import load_program, save_program
from clearopt.files.program import program_parts
from clearopt.program import Program
from clearopt.solvers import Backend, get_solver

_WORDS = ("allocations", "objective_text", "constraints")


class NotPortableError(Exception):
    """It cannot be sent to another process; says why."""


@dataclass(frozen=True)
class Parcel:
    """A program on its way: the file, whether it is a pickle, and a digest of what is in it."""

    path: Path
    pickled: bool
    digest: str

    def program(self) -> Program:
        """Read it."""
        if self.pickled:
            program: Program = pickle.loads(self.path.read_bytes())  # written by our own parent
            return program
        return load_program(self.path)


def packed(program: Program, stem: Path) -> Parcel:
    """Write a program beside `stem`.

    Raises:
        NotPortableError: it holds something the running script defines.
    """
    path = stem.with_suffix(".npz")
    try:
        save_program(program, path)
        return Parcel(path, False, digest(program))
    except DeclarationError:
        written = _pickled(program)
    path = stem.with_suffix(".pickle")
    path.write_bytes(written)
    return Parcel(path, True, hashlib.sha256(written).hexdigest())


def digest(program: Program) -> str:
    """A digest of the program's mathematics, whatever the names and texts in it."""
    header, arrays = program_parts(program)
    told = {name: entry for name, entry in header.items() if name not in _WORDS}
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name in sorted(arrays):
        if name.partition(".")[0] in _WORDS:
            continue
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def named(solver: str | Backend) -> dict[str, str]:
    """How another process finds the same back-end.

    Raises:
        NotPortableError: an instance of a class that the running script defines.
    """
    if isinstance(solver, str):
        return {"name": solver}
    return {"pickle": base64.b64encode(_pickled(solver)).decode()}


def found(description: dict[str, str]) -> Backend:
    """The back-end that `named` described."""
    if "name" in description:
        return get_solver(description["name"])
    backend: Backend = pickle.loads(base64.b64decode(description["pickle"]))  # from our own parent
    return backend


class _Pickler(pickle.Pickler):
    """Refuses what another process could not import."""

    def reducer_override(self, thing: Any) -> Any:
        if getattr(thing, "__module__", None) == "__main__" and hasattr(thing, "__qualname__"):
            raise NotPortableError(f"{thing.__qualname__} is defined in the script itself")
        return NotImplemented


def _pickled(thing: Any) -> bytes:
    written = io.BytesIO()
    try:
        _Pickler(written).dump(thing)
    except NotPortableError:
        raise
    except Exception as error:  # whatever stands in the way: a lambda, a lock, an open file
        reason = str(error) or type(error).__name__
        raise NotPortableError(reason) from error
    return written.getvalue()
