"""Files of the test set: their text, where they lie, and which names there are."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn

from clearopt.atomic import written_whole
from clearopt.errors import DeclarationError
from clearopt.testset.document import checked, parsed
from clearopt.testset.instance import Instance

SUFFIXES = (".json", ".json.gz")
_CLOSE = (",", ": ")
_WIDTH = 96  # characters; what is longer is broken, but for lists of numbers


# -------------------------------------------------------------------------------- files
def read(path: str | os.PathLike[str]) -> Instance:
    """The instance in a file."""
    where = _file_path(path)
    try:
        data = where.read_bytes()
    except OSError as error:
        raise DeclarationError(f"{where}: cannot be read ({error.strerror})") from error
    return parsed(str(where), _json(str(where), data))


def write(instance: Instance, path: str | os.PathLike[str]) -> None:
    """Write an instance to a file that `load` reads.

    Args:
        instance: what to write; its allocation must be feasible and worth its value.
        path: ends in .json, or in .json.gz for one that is compressed.

    Raises:
        DeclarationError: something in it contradicts itself or cannot be kept, or nothing can be
            written there.
    """
    where = _file_path(path)
    text = (layout(checked(instance)) + "\n").encode()
    with written_whole(where) as file:
        # Without a time in it the same instance gives the same bytes.
        file.write(gzip.compress(text, 9, mtime=0) if where.suffix == ".gz" else text)


def _file_path(path: str | os.PathLike[str]) -> Path:
    try:
        where = Path(path)
    except TypeError as error:
        raise DeclarationError(f"path = {path!r}: must be a name such as 'one.json'") from error
    if not where.name.endswith(SUFFIXES):
        raise DeclarationError(f"{where}: an instance is named *.json or *.json.gz")
    return where


def _json(source: str, data: bytes) -> Any:
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
        raise DeclarationError(f"{source}: not JSON, or damaged ({error})") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# -------------------------------------------------------------------------------- the set
def _shipped() -> Iterator[tuple[str, Traversable]]:
    for file in (files("clearopt.testset") / "data").iterdir():
        for suffix in SUFFIXES:
            if file.name.endswith(suffix):
                yield file.name.removesuffix(suffix), file


@cache
def _tags() -> dict[str, frozenset[str]]:
    """The tags of every instance by its name, sorted; the programs are not looked at."""
    found = {
        name: frozenset(_json(f"testset:{name}", file.read_bytes())["tags"])
        for name, file in _shipped()
    }
    return dict(sorted(found.items()))


def names(pattern: str = "*") -> list[str]:
    """The names of the instances, sorted.

    Args:
        pattern: a name, a pattern of names such as "surge-*", or a tag such as "small".

    Raises:
        DeclarationError: nothing is called so.
    """
    tags = _tags()
    found = [name for name, own in tags.items() if fnmatchcase(name, pattern) or pattern in own]
    if not found:
        known = ", ".join(sorted(set().union(*tags.values())))
        raise DeclarationError(
            f"testset: no instance is called {pattern!r}, and there is no such tag; tags are "
            f"{known}, and clearopt.testset.names() lists the names"
        )
    return found


def load(which: str | os.PathLike[str]) -> Instance:
    """An instance of the test set by its name, or one in a file.

    Args:
        which: a name of `names()`, or the path of a .json or .json.gz file.

    Raises:
        DeclarationError: there is none, or the file is damaged or contradicts itself: its
            allocation is not feasible or not worth its value, or the value lies past the bound.
    """
    if not isinstance(which, str) or which.endswith(SUFFIXES):
        return read(which)
    for name, file in _shipped():
        if name == which:
            source = f"testset:{name}"
            return parsed(source, _json(source, file.read_bytes()))
    raise DeclarationError(
        f"testset: no instance is called {which!r}; clearopt.testset.names() lists them, and a "
        "file of your own ends in .json or .json.gz"
    )


# -------------------------------------------------------------------------------- text
def layout(value: Any, indent: int = 0) -> str:
    """JSON with an entry a line, and lists of numbers on one."""
    plain = json.dumps(value, allow_nan=False, ensure_ascii=False)
    broken = isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(each, list | dict) for each in value)
    )
    if not broken or not value or len(plain) + indent <= _WIDTH:
        return plain if isinstance(value, str) else json.dumps(value, separators=_CLOSE)
    inner = " " * (indent + 1)
    if isinstance(value, dict):
        lines = [f"{json.dumps(k)}: {layout(each, indent + 1)}" for k, each in value.items()]
        opening, closing = "{}"
    else:
        lines = [layout(each, indent + 1) for each in value]
        opening, closing = "[]"
    body = ",\n".join(inner + line for line in lines)
    return f"{opening}\n{body}\n{' ' * indent}{closing}"
