"""A device whose owner allows answers without end, a day later for it, and a refusal by code and words."""

from __future__ import annotations

from pathlib import Path

import pytest
from privacy_world import DAY_S, Owned

from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy.limits import OwnerLimits
from protocol.questions import ASSESS, COVARIANCE, CURVE, SCALE, Kind
from protocol.refusals import RefusalCode

ONCE: tuple[Kind, ...] = (SCALE, COVARIANCE, CURVE, ASSESS)
MANY = OwnerLimits(answers_per_day=10_000)


def refused(code: RefusalCode, words: str = ".") -> pytest.RaisesExc[PrivacyRefusedError]:
    return pytest.RaisesExc(PrivacyRefusedError, match=words, check=lambda error: error.code is code)


def device(folder: Path, limits: OwnerLimits = MANY, *, windows: int = 200) -> Owned:
    owned = Owned(folder, limits)
    owned.watch(windows)
    owned.snapshot()
    return owned


def renew(owned: Owned, *, windows: int = 32, after_s: float = DAY_S) -> None:
    """A day later, as a new learner."""
    owned.watch(windows)
    owned.clock.pass_s(after_s)
    owned.account.close()
    owned.open()
    owned.snapshot()
