"""dp-accounting, Google's library of privacy accountants, loaded when a figure is first wanted.

It brings SciPy: a third of the time in which an aggregator starts, and of use only to families that want privacy.
"""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["dp"]


@cache
def dp() -> Any:
    """The package, with its accountants in `.rdp` and `.pld`. It ships no type information: ε leaves this package as a float."""
    import dp_accounting.pld  # type: ignore[import-untyped]  # as above
    import dp_accounting.rdp  # type: ignore[import-untyped]  # as above

    return dp_accounting
