"""The one gate before a signature: what was not checked, by name, is not signed.

::

    first release ─┐
    federated run ─┼─► sums, parameters, int8 model ─► checks ─► `clear` ─► Cleared ─► Exporter.release ─► signed bundle
    anybody else ──┘                                     └ one fails, or is missing ─► GateRefusedError, nothing is signed

An exporter signs `Cleared` only, and a `Cleared` cannot be made without every check of `REQUIRED`. What passes but should be looked at
is a warning: it is printed, and signed into the provenance. Pure. The checks themselves are `release_checks`' and `gate`'s; parameters and
figures that are not finite are refused where a bundle is packed (`models.export.release`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from aggregator.errors import GateRefusedError
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.runs import Check

__all__ = ["REQUIRED", "Cleared", "clear", "warnings_of"]

REQUIRED: Final = frozenset(
    {"clipped", "rows", "learned", "sight", "output", "threshold", "int8_error", "int8_sight"}
)
"""Checks without which nothing is signed; where the fleet's prior judges, `prior` is one of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cleared:
    """A candidate that may be signed, its int8 model, and the checks that it passed. Only an object like this reaches a release key.

    Raises:
        GateRefusedError: a check of `REQUIRED` is missing, or one failed.
    """

    candidate: Candidate
    int8_model: bytes
    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        """Hold it to its word, whoever makes it."""
        release = f"{self.candidate.family}/{self.candidate.version}"
        failed = [check.reason for check in self.checks if not check.is_passed]
        if failed:
            raise GateRefusedError(f"{release} is not signed: {'; '.join(failed)}")
        required = REQUIRED if self.candidate.prior is None else REQUIRED | {"prior"}
        if missing := required - {check.name for check in self.checks}:
            raise GateRefusedError(
                f"{release} is not signed: nobody checked {', '.join(sorted(missing))}; every release is"
            )


def clear(candidate: Candidate, int8_model: bytes, checks: Sequence[Check]) -> Cleared:
    """What may be signed: the candidate, with the gate's warnings in its provenance; raises GateRefusedError that names every reason."""
    provenance = msgspec.structs.replace(candidate.provenance, warnings=warnings_of(checks))
    return Cleared(
        candidate=replace(candidate, provenance=provenance), int8_model=int8_model, checks=tuple(checks)
    )


def warnings_of(checks: Iterable[Check]) -> tuple[str, ...]:
    """The sentences of checks that passed but should be looked at."""
    return tuple(check.reason for check in checks if check.is_passed and check.is_warning)
