"""Writing a file whole or not at all: a reader never meets half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clearopt.errors import DeclarationError


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file beside `path` that takes its place when the block ends without an error.

    What stood there before is replaced in one step, or left as it was.

    Raises:
        DeclarationError: nothing can be written there.
    """
    # Through a link to the file itself: it is to be replaced, not the link.
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        file = beside.open("xb")  # unlike `tempfile`, with the rights the user's files have
    except OSError as error:
        raise DeclarationError(f"{path}: cannot write there ({error.strerror})") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError as error:  # a full disk, or a folder in the way
        raise DeclarationError(f"{path}: could not be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            beside.unlink()
