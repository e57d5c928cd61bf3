"""When vLLM's engines in this process may go.

All of them share the process's distributed state, which vLLM takes down with the first engine that
is collected: the others can generate nothing from then on. An engine that is no longer wanted is
therefore kept until the last one is not.
"""

from __future__ import annotations

import weakref
from typing import Any

_in_use = 0
_kept: list[Any] = []


def live_as_long_as_others(owner: object, llm: Any) -> None:
    """Keep `llm` for `owner`, and after it for as long as another owner is in use."""
    global _in_use
    _in_use += 1
    weakref.finalize(owner, _let_go, llm).atexit = False


def _let_go(llm: Any) -> None:
    global _in_use
    _in_use -= 1
    _kept.append(llm)
    if _in_use == 0:
        _kept.clear()
