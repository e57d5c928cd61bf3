"""The container of clearopt's files: a zip of NumPy arrays, one of them a JSON header.

Nothing in it is ever unpickled, imported or executed. Every array is asked for by name, with the
type and shape it must have, so that a damaged or edited file is told from a good one at once.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.atomic import written_whole
from clearopt.errors import DeclarationError
from clearopt.files.values import decode, decode_label
from clearopt.validation import FloatArray

FORMAT = "clearopt"
VERSION = 1
HEADER = "header"
SUFFIX = ".npz"

_read_array: Callable[..., NDArray[Any]] = np.lib.format.read_array
T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
# What reading a damaged zip or array may raise; all of it means the same to a user.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, KeyError, OverflowError,
    NotImplementedError, RuntimeError, OSError, SyntaxError,
)  # fmt: skip


def file_path(path: str | os.PathLike[str]) -> Path:
    """`path`, if it is one that ends in .npz."""
    try:
        where = Path(path)
    except TypeError as error:
        raise DeclarationError(
            f"path = {path!r}: must be a file name such as 'problem.npz'"
        ) from error
    if where.suffix.lower() != SUFFIX:
        raise DeclarationError(f"{where}: a clearopt file is named *.npz, e.g. 'problem.npz'")
    return where


def write(path: str | os.PathLike[str], header: dict[str, Any], arrays: Arrays) -> None:
    """Write header and arrays to `path` in one step."""
    where = file_path(path)
    text = json.dumps(header, allow_nan=False).encode()
    members: dict[str, Any] = {HEADER: np.frombuffer(text, dtype=np.uint8)} | arrays
    with written_whole(where) as file:
        np.savez_compressed(file, **members)


def read(path: str | os.PathLike[str]) -> Archive:
    """The file at `path`, its header checked; arrays are read as they are asked for.

    Raises:
        DeclarationError: no such file, not one of clearopt's, of a newer version, or damaged.
    """
    where = file_path(path)
    try:
        data = where.read_bytes()
    except OSError as error:
        raise DeclarationError(f"{where}: cannot be read ({error.strerror})") from error
    try:
        members = _Members(where, zipfile.ZipFile(io.BytesIO(data)))
    except _DAMAGE as error:
        cut = data[:4] == b"PK\x03\x04"
        raise DeclarationError(
            f"{where}: " + ("the file is damaged or cut short" if cut else "not an .npz file")
            + f", {len(data)} bytes ({error})"
        ) from error  # fmt: skip
    if HEADER not in members:
        raise DeclarationError(f"{where}: an .npz file, but not one of clearopt's: no {HEADER!r}")
    return Archive(str(where), _parsed(where, members[HEADER]), members)


def _parsed(where: Path, raw: NDArray[Any]) -> Any:
    if raw.dtype != np.uint8 or raw.ndim != 1:
        raise DeclarationError(f"{where}: an .npz file, but not one of clearopt's")
    try:
        return json.loads(raw.tobytes(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DeclarationError(f"{where}: its header is not JSON ({error})") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Members(Mapping[str, NDArray[Any]]):
    """The arrays in a zip, read one by one."""

    def __init__(self, where: Path, archive: zipfile.ZipFile) -> None:
        self._where, self._archive = where, archive
        self._names = {n.removesuffix(".npy"): n for n in archive.namelist() if n.endswith(".npy")}

    def __getitem__(self, name: str) -> NDArray[Any]:
        entry = self._names[name]
        try:
            with self._archive.open(entry) as stream:
                array = _read_array(stream, allow_pickle=False)
                if stream.read(1):
                    raise ValueError("more bytes than the array has")
        except (*_DAMAGE, MemoryError) as error:
            raise DeclarationError(
                f"{self._where}: the array {name!r} is damaged ({str(error) or 'too large'})"
            ) from error
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Fields:
    """A JSON object of the header: entries by name and type, or an error that says which."""

    def __init__(self, source: str, data: Any, where: str = "header") -> None:
        self.source, self.where = source, where
        if not isinstance(data, dict):
            self.fail(f"expected an object, got {_shown(data)}")
        self._data: dict[str, Any] = data

    def fail(self, what: str) -> NoReturn:
        """Raise a DeclarationError that names the file and the place in its header."""
        raise DeclarationError(f"{self.source}: {self.where}: {what}")

    def value(self, key: str) -> Any:
        """The entry as JSON has it."""
        if key not in self._data:
            self.fail(f"{key!r} is missing")
        return self._data[key]

    def only(self, *known: str) -> None:
        """Raise where there is an entry that is not among `known`: a misspelt one, perhaps."""
        for key in self._data:
            if key not in known:
                self.fail(f"{key[:80]!r} is not known here; expected {', '.join(known)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its entries."""
        return tuple(self._data)

    def _decoded(self, key: str, read: Callable[[Any], T], meaning: str) -> T:
        try:
            return read(self.value(key))
        except (ValueError, RecursionError) as error:
            return self.fail(f"{key!r} is not {meaning}: {error}")

    def has(self, key: str) -> bool:
        """Whether there is an entry of that name."""
        return key in self._data

    def text(self, key: str) -> str:
        value = self.value(key)
        return value if isinstance(value, str) else self.fail(f"{key!r} is not a text")

    def one_of(self, key: str, known: Any) -> Any:
        """A text that is among `known`."""
        value = self.text(key)
        if value not in known:
            self.fail(f"{key} = {value[:80]!r}: must be one of {', '.join(map(repr, known))}")
        return value

    def flag(self, key: str) -> bool:
        value = self.value(key)
        return value if isinstance(value, bool) else self.fail(f"{key!r} is not true or false")

    def count(self, key: str) -> int:
        """A whole number of at least 0."""
        value = self.value(key)
        if type(value) is not int or not 0 <= value < 2**62:
            self.fail(f"{key} = {_shown(value)}: must be a whole number of at least 0")
        return value

    def number(self, key: str, *, finite: bool = False) -> float:
        """A float; NaN and infinities where not `finite`."""
        value = self._decoded(key, decode, "a number")
        if type(value) is int:
            value = float(value) if abs(value) < 2**1023 else math.inf
        if type(value) is not float or (finite and not math.isfinite(value)):
            self.fail(f"{key} = {_shown(value)}: must be a{' finite' if finite else ''} number")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.value(key)
        return value if isinstance(value, list) else self.fail(f"{key!r} is not a list")

    def objects(self, key: str) -> list[Fields]:
        """A list of objects."""
        return [
            Fields(self.source, item, f"{self.where}, {key}[{position}]")
            for position, item in enumerate(self.items(key))
        ]

    def optional(self, key: str) -> Fields | None:
        """An object, or null."""
        value = self.value(key)
        return None if value is None else Fields(self.source, value, f"{self.where}, {key}")

    def labels(self, key: str) -> tuple[Hashable, ...] | None:
        """A list of distinct labels, or null."""
        if self.value(key) is None:
            return None
        written = self.items(key)
        labels = self._decoded(
            key, lambda _: tuple(decode_label(item) for item in written), "a list of labels"
        )
        if len(set(labels)) != len(labels):
            self.fail(f"{key!r} holds a label twice")
        return labels

    def mapping(self, key: str) -> dict[str, Any]:
        """A mapping from texts to values."""
        value = self._decoded(key, decode, "a mapping")
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            self.fail(f"{key!r} is not a mapping by name")
        return value

    def nested(self, key: str) -> Fields:
        """An object."""
        return Fields(self.source, self.value(key), f"{self.where}, {key}")


class Archive(Fields):
    """A file's header, and its arrays by name, type and shape."""

    def __init__(self, source: str, header: Any, members: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(source, header)
        self._members = members
        if not isinstance(self._data.get("format"), str) or self._data["format"] != FORMAT:
            raise DeclarationError(f"{source}: an .npz file, but not one of clearopt's")
        version = self.count("version")
        if version > VERSION:
            raise DeclarationError(
                f"{source}: written by a newer clearopt, in version {version} of the file format; "
                f"this clearopt reads version {VERSION}: upgrade it to read this file"
            )
        if version < 1:
            self.fail("version = 0: there is no such version")

    def refuse(self, name: str, what: str) -> NoReturn:
        """Raise a DeclarationError that names the file and the array."""
        raise DeclarationError(f"{self.source}: the array {name!r} {what}")

    def require(self, name: str, array: NDArray[Any], holds: Any, rule: str) -> None:
        """Raise unless `holds` everywhere, naming the first entry where it does not."""
        holds = np.asarray(holds)
        if not holds.all():
            place = np.argwhere(~holds)[0].tolist()
            value = array[tuple(place)].item()
            self.refuse(name, f"is wrong at {place}: {value!r} {rule}")

    def array(self, name: str, kinds: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """An array of one of the dtype `kinds` (NumPy's letters); None is any length."""
        if name not in self._members:
            raise DeclarationError(f"{self.source}: the array {name!r} is missing")
        found = self._members[name]
        if found.dtype.kind not in kinds or found.dtype.itemsize > 8:
            wanted = " or ".join(_KIND_NAMES[kind] for kind in kinds)
            self.refuse(name, f"holds {found.dtype}, not {wanted}")
        if len(found.shape) != len(shape) or any(
            wanted is not None and length != wanted
            for length, wanted in zip(found.shape, shape, strict=True)
        ):
            shown = ", ".join("any" if length is None else str(length) for length in shape)
            self.refuse(name, f"has shape {found.shape}, not ({shown})")
        return found

    def floats(
        self, name: str, shape: tuple[int | None, ...], rule: str = "finite"
    ) -> FloatArray:  # fmt: skip
        """Float64 numbers: "finite", "infinite" (not NaN), or "any"."""
        array = np.asarray(self.array(name, "f", shape), dtype=np.float64)
        if rule == "finite":
            self.require(name, array, np.isfinite(array), "is not finite")
        elif rule == "infinite":
            self.require(name, array, ~np.isnan(array), "is not a number")
        return array

    def mask(self, name: str, shape: tuple[int | None, ...]) -> NDArray[np.bool_]:
        """Booleans."""
        return np.asarray(self.array(name, "b", shape), dtype=np.bool_)

    def wholes(
        self, name: str, shape: tuple[int | None, ...], least: int, below: int
    ) -> NDArray[np.intp]:
        """Whole numbers from `least` up to, but not including, `below`."""
        array = self.array(name, "iu", shape)
        rule = f"must be at least {least} and below {below}"
        self.require(name, array, (array >= least) & (array < below), rule)
        return array.astype(np.intp)

    def matrix(self, name: str, width: int, height: int | None = None) -> sparse.csr_array:
        """A finite sparse matrix of `width` columns."""
        shape = self.wholes(f"{name}.shape", (2,), 0, 2**62).tolist()
        if shape[1] != width or (height is not None and shape[0] != height):
            expected = f"({'any' if height is None else height}, {width})"
            self.refuse(f"{name}.shape", f"says {tuple(shape)}, not {expected}")
        data = self.floats(f"{name}.data", (None,))
        entries = data.shape[0]
        if self.array(f"{name}.indptr", "iu", (None,)).shape[0] != shape[0] + 1:
            self.refuse(f"{name}.indptr", f"must have {shape[0] + 1} entries, one a row and one")
        self.wholes(f"{name}.indices", (entries,), 0, width)
        self.wholes(f"{name}.indptr", (shape[0] + 1,), 0, entries + 1)
        indices, indptr = (self._members[f"{name}.{part}"] for part in ("indices", "indptr"))
        if indptr[0] != 0 or indptr[-1] != entries:
            self.refuse(f"{name}.indptr", f"must run from 0 to {entries}, the number of entries")
        rising = np.r_[True, indptr[1:] >= indptr[:-1]]
        self.require(f"{name}.indptr", indptr, rising, "lies below the entry before it")
        return sparse.csr_array((data, indices, indptr), shape=tuple(shape))


def matrix_arrays(name: str, matrix: sparse.csr_array) -> Arrays:
    """The arrays that `Archive.matrix` reads."""
    return {
        f"{name}.data": np.asarray(matrix.data, dtype=np.float64),
        f"{name}.indices": np.asarray(matrix.indices),
        f"{name}.indptr": np.asarray(matrix.indptr),
        f"{name}.shape": np.asarray(matrix.shape, dtype=np.int64),
    }


_KIND_NAMES = {
    "f": "float64 numbers",
    "i": "whole numbers",
    "u": "whole numbers",
    "b": "booleans",
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
