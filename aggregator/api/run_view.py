"""How a training run looks to people and programs: a JSON object, complete at any time of the run."""

from __future__ import annotations

from typing import Any

import msgspec

from aggregator.rounds.runs import RoundRecord, TrainingRun

__all__ = ["run_summary", "run_view"]


def run_summary(run: TrainingRun) -> dict[str, Any]:
    """One line of a list. `reason` says why the run started, `detail` why it is where it is."""
    return {
        "id": run.id,
        "family": run.family,
        "state": run.state.value,
        "trigger": run.trigger,
        "reason": run.reason,
        "requested_by": run.requested_by,
        "detail": run.detail,
        "planned_rounds": run.rounds,
        "finished_rounds": run.finished_rounds,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
        "ended_at": run.ended_at,
        "base_release": run.base_release,
        "release": run.release,
        "rollout": run.rollout,
    }


def run_view(run: TrainingRun) -> dict[str, Any]:
    """Everything about a run: its rounds (void ones too), the federated evaluation, each check of the gate."""
    evaluation = {
        "candidate_loss": run.candidate_loss,
        "champion_loss": run.champion_loss,
        "alarm_rate": run.alarm_rate,
        "threshold": run.threshold,
        "int8_error": run.int8_error,
    }
    return {
        **run_summary(run),
        "layout_sha256": run.layout_sha256,
        "mode": run.mode,
        "protection": run.protection,
        "groups": [list(group) for group in run.groups],
        "rounds": [_round_view(record) for record in run.log if record.kind == "fit"],
        "refits": [
            _round_view(record) for record in run.log if record.kind in {"scale", "covariance", "curve"}
        ],
        "assessments": [_round_view(record) for record in run.log if record.kind == "assess"],
        "evaluation": {name: value for name, value in evaluation.items() if value is not None},
        "refit": msgspec.to_builtins(run.refit),
        "checks": [msgspec.to_builtins(check) for check in run.checks],
        "participants": sorted(run.participants),
        "examples": run.examples,
        "privacy": msgspec.to_builtins(run.privacy),
    }


def _round_view(record: RoundRecord) -> dict[str, Any]:
    view: dict[str, Any] = msgspec.to_builtins(record)
    view["void"] = view.pop("is_void")
    return view
