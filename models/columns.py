"""Do two feature specs mean the same columns? If not, in which words a person is told.

A row is numbers in an order; a scale, a model or a buffer made for one order is worse than useless under another,
because it still gives numbers. `FeatureSpec.fingerprint` says whether two specs are the same, this module how they are
not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.manifest import FeatureSpec

__all__ = ["describe_difference"]

_NAMED: Final = 3
"""Columns in one sentence: enough to recognise what happened."""
_KINDS: Final = ("kind", "channels", "window_samples", "sample_rate_hz")


def describe_difference(theirs: FeatureSpec, ours: FeatureSpec) -> str:
    """What `theirs` has otherwise than `ours`, in one line; empty where they are the same.

    >>> from models.features import passthrough_spec
    >>> describe_difference(passthrough_spec(("a", "b", "c")), passthrough_spec(("b", "a", "d")))
    "'c' is missing here, 'd' is new here; 'a', 'b' have moved"
    """
    parts = [] if theirs.names == ours.names else _differing_names(theirs.names, ours.names)
    for what in _KINDS:
        there, here = getattr(theirs, what), getattr(ours, what)
        if there != here and not (parts and what == "channels"):  # as many as names: said already
            parts.append(f"{what} {there!r} there, {here!r} here")
    return "; ".join(parts)


def _differing_names(there: tuple[str, ...], here: tuple[str, ...]) -> list[str]:
    gone, new = [name for name in there if name not in here], [name for name in here if name not in there]
    common_there, common_here = [n for n in there if n in here], [n for n in here if n in there]
    moved = [name for name, other in zip(common_there, common_here, strict=False) if name != other]
    changes = ", ".join(f"{_listed(names)} {words}" for names, words in _about(gone, new) if names)
    parts = [changes, f"{_listed(moved)} have moved" if moved else ""]
    return [part for part in parts if part] or ["a name occurs more often in one than in the other"]


def _about(gone: list[str], new: list[str]) -> Iterable[tuple[list[str], str]]:
    return (
        (gone, "is missing here" if len(gone) == 1 else "are missing here"),
        (new, "is new here" if len(new) == 1 else "are new here"),
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
