"""What the subcommands share: kinds of arguments, and checks that fail before the work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from clearopt.errors import DeclarationError


def fractions(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        message = f"{text!r} is not a list of numbers such as 0.1,0.2"
        raise argparse.ArgumentTypeError(message) from None


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def named(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def check_free(target: Path, force: bool) -> None:
    """Raise where a file stands already, unless it may be replaced."""
    if target.is_dir():
        raise DeclarationError(f"{target}: is a folder; name a file")
    if not force and os.path.lexists(target):
        raise DeclarationError(f"{target}: exists already; --force replaces it")


def check_folder_of(target: Path) -> None:
    """Raise unless the folder of a file is there and can be written to."""
    folder = target.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DeclarationError(f"{target}: cannot write there: {folder} is no folder for it")


def check_writable(out: Path) -> None:
    """Make the folder, and raise unless it can be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DeclarationError(f"--out {out}: cannot write there ({error.strerror})") from error
