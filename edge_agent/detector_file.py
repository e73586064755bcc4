"""The fitted mixture on disk: a restart judges by the very detector that gave the promise, and fits nothing.

JSON, as all of the state directory; arrays as little-endian bytes in base64: 46 kB for 46 sensors, 350 kB for 128, written
when the detector is fitted. The alarm's rules stand beside it: under others, it has promised nothing. So does the budget; under
another one, of the same shortest event, the threshold is found on the curve that was kept.
"""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec import Struct

from edge_agent.context_file import ContextFile, pack_context, unpack_context
from edge_agent.judges import MixtureJudge
from models.detection.context import Context
from models.detection.detector import Detector
from models.detection.experts import Form
from models.detection.int8_layer import Int8Layer
from models.detection.openings import LEVELS, AlarmRules, Curve
from models.detection.promise import AlarmBudget, Promise
from models.errors import InputError

__all__ = ["decode_detector", "encode_detector", "read_context"]


class _DetectorFile(Struct, frozen=True, kw_only=True):
    fingerprint: str
    bundle_sha256: str
    budget: AlarmBudget
    rules: AlarmRules
    promise: Promise
    units: tuple[float, ...]
    averages: tuple[int, ...]
    typical: float
    own_weight: float
    curve_windows: float
    curve_alikeness: float
    curve_own_windows: float
    curve_rate: bytes
    curve_share: bytes
    centre: bytes
    divisor: bytes
    matrix: bytes
    residuals: bytes
    context: ContextFile | None = None


def encode_detector(
    judge: MixtureJudge, fingerprint: str, bundle_sha256: str, budget: AlarmBudget, rules: AlarmRules
) -> bytes:
    """The file: about columns of that `fingerprint`, fitted for the bundle and for what its operator asks."""
    detector, curve = judge.detector, judge.detector.curve
    return msgspec.json.encode(
        _DetectorFile(
            fingerprint=fingerprint,
            bundle_sha256=bundle_sha256,
            budget=budget,
            rules=rules,
            promise=detector.promise,
            units=detector.form.units,
            averages=detector.form.averages,
            typical=detector.form.typical,
            own_weight=detector.form.own_weight,
            curve_windows=curve.windows,
            curve_alikeness=curve.alikeness,
            curve_own_windows=curve.own_windows,
            curve_rate=curve.rate.astype("<f8").tobytes(),
            curve_share=curve.share.astype("<f8").tobytes(),
            centre=detector.centre.astype("<f4").tobytes(),
            divisor=detector.divisor.astype("<f4").tobytes(),
            matrix=detector.form.matrix.astype("<f8").tobytes(),
            residuals=detector.form.residuals.astype("<f8").tobytes(),
            context=pack_context(judge.context),
        )
    )


def decode_detector(
    content: bytes, fingerprint: str, bundle_sha256: str, budget: AlarmBudget, rules: AlarmRules
) -> MixtureJudge:
    """Read what `encode_detector` wrote for just these; raises InputError for anything else: fit anew."""
    try:
        file = msgspec.json.decode(content, type=_DetectorFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not a detector of this version: {error}") from None
    kept = (file.fingerprint, file.bundle_sha256, file.budget.shortest_event_windows, file.rules)
    if kept != (fingerprint, bundle_sha256, budget.shortest_event_windows, rules):
        raise InputError("a detector for other columns, another release or another shortest event")
    try:
        centre, divisor = (np.frombuffer(part, "<f4") for part in (file.centre, file.divisor))
        matrix, residuals = (
            np.frombuffer(part, "<f8").reshape(len(centre), len(centre))
            for part in (file.matrix, file.residuals)
        )
        rate, share = (np.frombuffer(part, "<f8") for part in (file.curve_rate, file.curve_share))
    except ValueError as error:
        raise InputError(f"not the arrays of a detector: {error}") from None
    is_sound = (
        divisor.shape == centre.shape
        and all(bool(np.isfinite(part).all()) for part in (centre, matrix, residuals))
        and bool((divisor > 0).all())
        and all(0 < unit < np.inf for unit in (*file.units, file.typical, file.promise.threshold))
        and len(file.units) == 2 + len(file.averages)
        and all(windows > 0 for windows in file.averages)
        and rate.shape == share.shape == LEVELS.shape
        and bool(np.isfinite(rate).all() and np.isfinite(share).all())
    )
    if not is_sound:
        raise InputError("a detector whose values are not finite, or not positive where they divide")
    form = Form(
        matrix=matrix,
        residuals=residuals,
        centre=np.zeros(len(centre)),
        units=file.units,
        averages=file.averages,
        typical=file.typical,
        own_weight=file.own_weight,
        held_out=np.zeros(0),
        held_out_furthest=np.zeros(0),
    )
    curve = Curve(
        rate=rate,
        share=share,
        windows=file.curve_windows,
        alikeness=file.curve_alikeness,
        own_windows=file.curve_own_windows,
    )
    detector = Detector(
        centre=centre,
        divisor=divisor,
        form=form,
        layer=Int8Layer.of(matrix, residuals),
        promise=file.promise,
        curve=curve,
    )
    detector = detector if file.budget == budget else detector.with_budget(budget)
    return MixtureJudge(detector, unpack_context(file.context, len(centre)))


def read_context(content: bytes, fingerprint: str, features: int) -> Context | None:
    """The context in force, for another process of this device; None where the file holds none of these columns."""
    try:
        file = msgspec.json.decode(content, type=_DetectorFile)
        return unpack_context(file.context, features) if file.fingerprint == fingerprint else None
    except (msgspec.DecodeError, UnicodeDecodeError, InputError):
        return None
