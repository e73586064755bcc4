"""The claim the product rests on, on real bearings and on simulated machines: learning together cuts false alarms.

"Learning together" is a release: weights and threshold. On the bearings the shared threshold alone explains the fall
(the laboratory prints that control too), so nothing here claims that averaged weights rank windows better.

Runs the detection laboratory as a person would and reads its figures; the bounds leave room for another seed's luck.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from recordings import DATA, ROOT, needs

pytestmark = pytest.mark.slow


def laboratory(*arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/detection_recipe.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"FEDGE_DATA": str(DATA), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {line["name"]: line["mean"] for line in map(json.loads, done.stdout.splitlines())}


@needs("pronostia")
@pytest.mark.parametrize("until", ["0.15", "0.25"])
def test_on_real_bearings_learning_together_beats_learning_alone_and_version_one(until: str) -> None:
    found = laboratory("pronostia", "--seeds", "2", "--until", until)
    together = found["federated: false alarms in mid-life"]
    assert together < 0.10
    assert together < 0.5 * found["local only: false alarms in mid-life"]
    assert together < 0.3 * found["v1: false alarms in mid-life"]
    assert found["federated: ends caught"] == 1.0
    assert found["federated: AUC"] > 0.88


def test_on_simulated_machines_the_whole_story_holds() -> None:
    found = laboratory("machines", "--seeds", "1")
    assert found["v1 nominal"] < 0.02
    assert found["v1 at new load"] > 0.3
    assert found["v2 after"] < 0.02
    assert found["v3 harmful"] > 0.9
    assert found["devices drifted, nominal"] <= 1
    assert found["devices drifted, new load (of 9)"] == 9
    assert found["devices drifted, after v2"] <= 1
    assert found["faults caught v1 (of 12)"] == found["faults caught v2 (of 12)"] == 12
    assert found["slowest catch, windows"] <= 4
