"""Alarms that people judged: true ones at first, then false ones, so that a release's precision falls."""

from __future__ import annotations

import numpy as np
from fleet_world import anomaly
from seeded_fleet import ANN, SeededFleet
from seeded_story import HOUR, PUMPS, SCRIPT
from sqlalchemy import select

from fleet.storage.event_tables import Anomaly
from fleet.storage.verdict_tables import Verdict
from fleet.verdicts import give_verdict
from models.drift.labels import PrecisionSettings

__all__ = ["judge_alarms"]

TRUE_ONES, FALSE_ONES = 34, 16


def judge_alarms(fleet: SeededFleet) -> None:
    """Fifty alarms of pumps, judged half an hour after each came."""
    rng, until = np.random.default_rng(9), fleet.now
    told = []
    for number in range(TRUE_ONES + FALSE_ONES):
        name, at = PUMPS[5 + number % 11], until - 20 * HOUR + number * 1300
        said = anomaly(
            release="pump/1", score=1.5 + float(rng.random()), window_index=number, contributors=("rms_y",)
        )
        told.append(fleet.say(name, said, at=at))
    fleet.hear(told)
    with fleet.database.read() as session:
        mine = select(Anomaly.id).where(Anomaly.release == "pump/1", Anomaly.contributors == ["rms_y"])
        ids = session.scalars(mine.order_by(Anomaly.received_at)).all()
    for number, anomaly_id in enumerate(ids):
        is_true = number < TRUE_ONES and number % 8 != 7
        give_verdict(
            fleet.database,
            anomaly_id,
            Verdict.TRUE_ALARM if is_true else Verdict.FALSE_ALARM,
            note="" if number % 5 else f"looked at it {fleet.evil(SCRIPT)}".strip(),
            caller=ANN,
            now=until - 20 * HOUR + number * 1300 + 1800,
            settings=PrecisionSettings(),
        )
