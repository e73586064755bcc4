"""The figures of a study as JSON: what the report says, for programs."""

from __future__ import annotations

from dataclasses import asdict

import msgspec
import numpy as np

from simulations.study.costs import name_of_processor, times_on_boards
from simulations.study.recommendation import Recommendation
from simulations.study.studying import Study, Way
from simulations.study.understood import columns_of, understood
from simulations.study.verdicts import Tally

__all__ = ["document_of"]


def document_of(study: Study, recommendation: Recommendation) -> dict[str, object]:
    """Nothing but plain values; seconds, bytes, windows and shares as the names say."""
    prepared, best = study.prepared, study.best
    return {
        "recommendation": {
            "answer": recommendation.headline.name.lower(),
            "title": recommendation.title,
            "reasons": list(recommendation.reasons),
        },
        "understood": understood(prepared),
        "columns": [{"name": n, "kind": k, "note": note} for n, k, note in columns_of(prepared.reading)],
        "answers": dict(prepared.reading.answers),
        "sample_rate_hz": prepared.reading.sample_rate_hz,
        "features": msgspec.to_builtins(prepared.spec),
        "detection": msgspec.to_builtins(prepared.settings),
        "refused": [{"path": str(path), "why": why} for path, why in prepared.reading.refused],
        "too_short": [
            {"machine": one.name, "windows": one.windows, "needed": one.needed} for one in prepared.too_short
        ],
        "best": best.name,
        "ways": {name: _way(way) for name, way in study.ways.items()},
        "machines": {
            subject.name: {
                "learning_windows": subject.learning,
                "held_back_windows": subject.held_back,
                "ways": {name: _played(way, place) for name, way in study.ways.items()},
            }
            for place, subject in enumerate(prepared.subjects)
        },
        "training": {
            "rounds": study.releases.averaged.rounds,
            "loss_before": study.releases.averaged.loss_before,
            "loss_after": study.releases.averaged.loss_after,
            "release_bytes": study.releases.bytes_of_release,
        },
        "bytes": {**asdict(study.bytes), "saved_share": study.bytes.saved},
        "window_us": {
            "measured_on": name_of_processor(),
            "here": float(np.mean([one.window_us for one in best.played])),
            "scaled_by_a_guess": {
                one.board.name: one.window_us
                for one in times_on_boards(float(np.mean([p.window_us for p in best.played])), None)
            },
        },
        "privacy": {
            "devices": study.privacy.devices,
            "parameters": study.privacy.parameters,
            "rounds": study.privacy.rounds,
            "delta": study.privacy.delta,
            "costs": [asdict(cost) for cost in study.privacy.costs],
        },
        "seconds": study.seconds,
    }


def _way(way: Way) -> dict[str, object]:
    return {"int8": _tally(way.tally), "float": _tally(way.float_tally), "sight": way.sight}


def _tally(tally: Tally) -> dict[str, object]:
    return {
        **asdict(tally),
        "per_1000": tally.per_1000(),
        "per_1000_low": tally.per_1000(tally.low),
        "per_1000_high": tally.per_1000(tally.high),
        "per_30_days": tally.per_days(30),
        "time_in_alarm": tally.time_in_alarm,
    }


def _played(way: Way, place: int) -> dict[str, object]:
    played, verdict = way.played[place], way.int8[place]
    return {
        "judged": played.judged,
        "false_alarms": verdict.false_alarms,
        "false_alarms_float": way.floats[place].false_alarms,
        "alarms": [asdict(alarm) for alarm in played.alarms],
        "events": [asdict(event) for event in verdict.events],
        "drift_reports": list(played.drift_reports),
        "away": played.away,
        "sight": played.sight,
        "commissioned_after": played.commissioned_after,
        "learnt_on": played.learnt_on,
        "promise": played.promise,
        "problems": list(played.problems),
        "worst": [asdict(worst) for worst in played.worst],
    }
