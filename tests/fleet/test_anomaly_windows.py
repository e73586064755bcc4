"""``anomalies show``: the window that made an alarm, drawn in the terminal and saved, and what stands for one that is not there."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from fleet_api_world import Fleet, fleet, machine
from fleet_commands_world import Run, run
from fleet_world import TENANT, Machine, anomaly, enrol_directly

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.window_pictures import window_csv, window_lines, window_svg
from service.errors import ClientError

__all__ = ["fleet", "machine", "run"]  # the fixtures

WINDOW = np.stack([np.sin(np.arange(200) / 5), np.full(200, 7.0), np.arange(200.0)], axis=1).astype("<f4")


def stored(fleet: Fleet, machine: Machine, run: Run, **changes: object) -> str:
    enrol_directly(fleet.database, machine)
    said = anomaly(episode="e", contributors=("channel 3",), **changes)
    EventStore(fleet.database, TENANT, FleetMetrics()).store([machine.arrival(said)])
    return str(json.loads(run("anomalies", "--device", machine.name, "--json"))[0]["id"])


def test_a_window_is_drawn_and_saved(fleet: Fleet, machine: Machine, run: Run, tmp_path: Path) -> None:
    number = stored(fleet, machine, run, window=WINDOW.tobytes(), window_shape=WINDOW.shape)
    table, drawing = tmp_path / "w.csv", tmp_path / "w.svg"
    shown = run("anomalies", "show", number, "--out", str(table)).splitlines()
    drawn = [line for line in shown if "channel" in line and " to " in line]
    assert drawn[0].startswith("* channel 3  ▁")
    assert drawn[0].endswith("█  0 to 199")
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[0] == ["channel 1", "channel 2", "channel 3"]
    assert np.allclose(np.array(rows[1:], np.float32), WINDOW)
    run("anomalies", "show", number, "--out", str(drawing), "--json")
    assert "anomaly" in "".join(ET.fromstring(drawing.read_text()).itertext())  # noqa: S314 - drawn by us
    with pytest.raises(ClientError, match="PNG would need a library that a fleet has not"):
        run("anomalies", "show", number, "--out", "w.png")


def test_a_window_that_did_not_come_is_said_and_not_saved(
    fleet: Fleet, machine: Machine, run: Run, tmp_path: Path
) -> None:
    number = stored(fleet, machine, run, window_withheld=True)
    assert "window: none, its owner lets none leave the device" in run("anomalies", "show", number)
    with pytest.raises(ClientError, match="no window to save"):
        run("anomalies", "show", number, "--out", str(tmp_path / "w.csv"))
    assert not (tmp_path / "w.csv").exists()


def test_a_window_of_one_sample_is_its_values_and_what_is_missing_is_said() -> None:
    window = np.array([[1.5, np.nan, -2.0]], np.float32)
    assert list(window_lines(window, ("flow", "pressure", "current"), ["current"])) == [
        "* current   -2",
        "  flow      1.5",
        "  pressure  missing",
    ]


def test_gaps_are_no_values_and_names_do_nothing_to_a_drawing() -> None:
    values = np.arange(90, dtype=np.float32)
    values[30:60] = np.nan
    (line,) = window_lines(values[:, None], ("<b>&",), [])
    assert line.count("·") == 15
    drawn = window_svg(values[:, None], ("<b>&",), [], 30.0, "a <title>").decode()
    root = ET.fromstring(drawn)  # noqa: S314 - drawn by us
    assert sum(one.tag.endswith("polyline") for one in root.iter()) == 2
    assert "3 s" in "".join(root.itertext())
    assert window_csv(values[:2, None], ("a,b",), [], 2.0, "").decode() == 'seconds,"a,b"\n0,0\n0.5,1\n'
