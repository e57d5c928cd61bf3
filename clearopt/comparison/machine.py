"""What a comparison ran on: versions and the machine, without its name or any path."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from clearopt import __version__

_ALWAYS = ("numpy", "scipy", "jax")


def versions_of(modules: Iterable[str]) -> dict[str, str]:
    """Versions of Python, clearopt, and the packages that provide these modules."""
    found = {"Python": platform.python_version(), "clearopt": __version__}
    providers: dict[str, list[str]] | None = None
    for module in dict.fromkeys((*_ALWAYS, *modules)):
        name = module.partition(".")[0]
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if providers is None:
                providers = dict(packages_distributions())
            if name in providers:
                found[name] = version(providers[name][0])
    return found


def machine() -> dict[str, str]:
    """Processor, cores, memory, operating system."""
    found = {"processor": _processor(), "cores": _cores()}
    memory = memory_bytes()
    if memory is not None:
        found["memory"] = f"{memory / 2**30:.1f} GiB"
    found["system"] = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return found


def memory_bytes() -> int | None:
    """What the machine has, or what its control group allows; None where that is not known."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        allowed = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return whole
    return min(whole, allowed)


def usable_cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _cores() -> str:
    usable, all_of_them = usable_cores(), os.cpu_count() or 1
    return str(usable) if usable == all_of_them else f"{usable} of {all_of_them}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
