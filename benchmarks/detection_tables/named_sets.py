"""The four sets that the project knows by name, each cut into devices by a protocol that was fixed before anything was judged.

    pronostia   17 bearings    healthy: first 15 % of a life; later: 15-50 %; test: 15-50 % (quiet) and the last 5 % (anomalous)
    skab        34 recordings  healthy: first 400 rows; later: rows up to the first anomaly; test: all rows after the first 400
    smd         8 servers      healthy: first 5000 rows of the training part; later: the rest of it; test: the test part. A day is 1440 rows
    cmapss      40 engines     healthy: first 30 % of a life; later: 30-60 %; test: 30-60 % (quiet) and the last 10 % (anomalous)

Later rows of pronostia and cmapss are the quiet test rows, too; some may already wear. All columns of a set are used as they come, none is chosen.
SMD and C-MAPSS are for reporting: nothing may be chosen by looking at them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from learning_tables.pronostia_bearings import (
    END_SHARE,
    HEALTHY_SHARE,
    MIDDLE_SHARE,
    load_bearings,
    load_feature_names,
)
from learning_tables.skab_recordings import SENSORS, TRAIN_ROWS, load_recordings
from numpy.typing import NDArray

from detection_tables.devices import Device

__all__ = ["NAMED_SETS", "cut_life"]

Rows = NDArray[np.float32]

SMD_HEALTHY_ROWS: Final = 5000
SMD_DAY_ROWS: Final = 1440
CMAPSS_ENGINES: Final = 40
CMAPSS_CUTS: Final = (0.30, 0.60, 0.90)
CMAPSS_COLUMNS: Final = (
    *(f"setting{place}" for place in range(1, 4)),
    *(f"sensor{place}" for place in range(1, 22)),
)


def cut_life(name: str, life: Rows, cuts: tuple[float, float, float], names: tuple[str, ...]) -> Device:
    """A life (n, F) to its failure as a device: cuts are the ends of healthy and of quiet rows and the begin of the anomalous ones."""
    healthy, quiet, end = (int(share * len(life)) for share in cuts)
    later, last = life[healthy:quiet], life[end:]
    return Device(
        name=name,
        healthy=life[:healthy],
        later=later,
        test=np.concatenate([later, last]),
        labels=np.arange(len(later) + len(last)) >= len(later),
        feature_names=names,
        starts=(0, len(later)),
    )


def _load_pronostia(folder: Path) -> list[Device]:
    names = tuple(load_feature_names(folder))
    cuts = HEALTHY_SHARE, MIDDLE_SHARE, END_SHARE
    return [cut_life(bearing.name, bearing.life, cuts, names) for bearing in load_bearings(folder)]


def _load_skab(folder: Path) -> list[Device]:
    devices = []
    for recording in load_recordings(folder):
        rows, labels = recording.rows.astype(np.float32), recording.is_anomalous[TRAIN_ROWS:]
        quiet = int(np.argmax(labels)) if labels.any() else len(labels)
        devices.append(
            Device(
                name=recording.name,
                healthy=rows[:TRAIN_ROWS],
                later=rows[TRAIN_ROWS : TRAIN_ROWS + quiet],
                test=rows[TRAIN_ROWS:],
                labels=labels,
                feature_names=SENSORS,
            )
        )
    return devices


def _load_smd(folder: Path) -> list[Device]:
    with np.load(folder / "smd.npz", allow_pickle=False) as data:
        machines = sorted(name.removesuffix("_train") for name in data.files if name.endswith("_train"))
        return [
            Device(
                name=name,
                healthy=(train := data[f"{name}_train"])[:SMD_HEALTHY_ROWS],
                later=train[SMD_HEALTHY_ROWS:],
                test=data[f"{name}_test"],
                labels=data[f"{name}_test_label"].astype(np.bool_),
                feature_names=tuple(f"metric{place}" for place in range(1, train.shape[1] + 1)),
                period_rows=SMD_DAY_ROWS,
            )
            for name in machines
        ]


def _load_cmapss(folder: Path) -> list[Device]:
    with np.load(folder / "cmapss.npz", allow_pickle=False) as data:
        table = data["train"]
    # Columns: engine, cycle, settings, sensors. The cycle is the label under another name.
    return [
        cut_life(f"engine{engine}", table[table[:, 0] == engine][:, 2:], CMAPSS_CUTS, CMAPSS_COLUMNS)
        for engine in range(1, CMAPSS_ENGINES + 1)
    ]


NAMED_SETS: Final[Mapping[str, Callable[[Path], list[Device]]]] = {
    "pronostia": _load_pronostia,
    "skab": _load_skab,
    "smd": _load_smd,
    "cmapss": _load_cmapss,
}
"""Set → reads its own folder under FEDGE_DATA."""
