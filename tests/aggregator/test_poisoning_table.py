"""The benchmark of poisoners on generated machines, with coarse bounds: layers off it goes wrong, with all of them it does not."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from aggregator_world import ARCHITECTURE, trainer
from recordings import ROOT

from models.training_model import TrainingModel
from protocol.grids import SCORE_GRID
from protocol.questions import ASSESS, FIT, assess_layout, fit_layout
from protocol.secure_answers import make_encoding
from protocol.sum_terms import SumTerms

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from detection_tables.devices import Device
from poisoning import judge
from poisoning_lab.attacks import ATTACKS, lie_in_assessment, lying_words
from poisoning_lab.campaign import ALL, NONE, Layers, Outcome, Poisoned, play, poisoners_of
from poisoning_lab.figures import Figure, average_precision, draw, quality, table
from poisoning_lab.fleets import Machine, Release, Works

from models import reference_model


class Generated(Works):
    """Machines whose six sensors follow two hidden causes, each in its own units; at their end the sensors no longer do."""

    def __init__(self) -> None:
        super().__init__("generated", [machine(i) for i in range(17)], ARCHITECTURE)

    @property
    def model(self) -> TrainingModel:  # type: ignore[override] # cached elsewhere
        return trainer()


def machine(seed: int) -> Machine:
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(2, 6))
    rows = (1 + seed) * (rng.normal(size=(180, 2)) @ basis + 0.2 * rng.normal(size=(180, 6)))
    rows[150:] += (1 + seed) * rng.normal(size=(30, 6))
    return Machine.of(
        Device(
            name=f"m{seed}",
            healthy=rows[:100].astype(np.float32),
            later=rows[100:150].astype(np.float32),
            test=rows[100:].astype(np.float32),
            labels=np.arange(80) >= 50,
            feature_names=tuple("abcdef"),
        )
    )


WORKS = Generated()


@cache
def release() -> Release:
    return WORKS.release(0)


def judged(attack: str | None, layers: Layers) -> tuple[Outcome, float, float]:
    """(what came of it, AP, recall) with one poisoner of twelve."""
    chosen = {one.name: one for one in ATTACKS}
    poisoned = Poisoned(attack=chosen[attack], devices=poisoners_of(12, 1, 0)) if attack else Poisoned()
    found = play(WORKS, WORKS.fleet(12, 0), release(), poisoned, layers, seed=0)
    scores = [
        (
            reference_model.infer(ARCHITECTURE, found.parameters, one.quiet)[1],
            reference_model.infer(ARCHITECTURE, found.parameters, one.end)[1],
        )
        for one in WORKS.machines
    ]
    ap, recall, _ = quality(scores, [found.threshold] * len(scores))
    return found, ap, recall


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["flip x10", "blind, to the limit", "votes 4096", "wrap"])
def test_one_poisoner_of_twelve_changes_next_to_nothing_with_all_layers_and_deafens_all_without(
    attack: str,
) -> None:
    _, clean_ap, clean_recall = judged(None, ALL)
    outcome, ap, recall = judged(attack, ALL)
    assert not outcome.stopped
    # A group in each round, but for a lie that is as long as a sum may be.
    assert outcome.groups_left_out >= 8 or attack == "blind, to the limit"
    assert ap > clean_ap - 0.02
    assert recall > clean_recall - 0.1
    assert outcome.distance <= release().isolation.trust_radius
    without, _, deaf = judged(attack, NONE)
    assert without.stopped or deaf == 0.0


@pytest.mark.slow
def test_without_groups_a_sum_that_cannot_be_stops_the_run_and_the_champion_goes_on() -> None:
    outcome, _, _ = judged("votes 4096", Layers(is_grouped=False))
    assert "3 void attempts in a row; the last: votes: 4107 votes of 12 devices" in outcome.stopped
    np.testing.assert_array_equal(outcome.parameters, release().parameters)


@pytest.mark.parametrize("kind", [FIT, ASSESS])
def test_a_lie_arrives_in_the_sum_as_it_was_told_whatever_devices_clip_to(kind: str) -> None:
    layout = fit_layout(5) if kind == FIT else assess_layout(2, 3)
    terms = SumTerms(
        run_id="r",
        question=kind,
        round_number=1,
        devices=4,
        norm_limit=0.1,
        maximum_examples=10_000,  # type: ignore[arg-type]
    )
    encoding = make_encoding(layout, terms)
    parts = {name: np.zeros(size) for name, size in layout.sizes.items()}
    if kind == FIT:
        parts |= {"update": np.array([0.3, -0.25, 0.0, 1e-3, 0.35]), "votes": np.array([-159.0])}
    else:
        parts["examples"] = np.array([4096.0])
        parts = lie_in_assessment(parts)
    words = lying_words(encoding, layout, parts, np.random.default_rng(0))
    told = layout.unpack(encoding.decode(words & np.uint32((1 << terms.word_bits) - 1), 1))
    for name, values in parts.items():
        np.testing.assert_allclose(told[name], values, atol=1e-4)
    if kind == ASSESS:
        assert told["threshold_votes"][SCORE_GRID.bins - 1] == 1


def figure(**changes: object) -> Figure:
    usual = {
        "set": "s",
        "detector": "network",
        "devices": 12,
        "poisoners": 0,
        "attack": "none",
        "layers": "all",
    }
    figures = {"seed": 0, "ap": 0.9, "recall": 0.6, "false_alarms": 0.1, "released": True, "gate": ""}
    return Figure(**{**usual, **figures, "distance": 0.0, **changes})  # type: ignore[arg-type] # by name


def test_what_is_demanded_is_judged_against_the_clean_run_of_the_same_layers(tmp_path: Path) -> None:
    figures = [
        figure(),
        figure(poisoners=1, attack="flip", ap=0.895, recall=0.56),
        figure(poisoners=1, attack="blind", ap=0.88),
        figure(poisoners=1, attack="wrap", ap=0.1, recall=0.0, released=False, why="void"),
    ]
    lines = {str(line["judged"]).rpartition(", ")[2]: line["pass"] for line in judge(figures, "all")}
    assert lines == {"flip": True, "blind": False, "wrap": True}
    assert "| 12, 1 | flip | 0.895/0.56 |" in table(figures, ["all"])
    assert "| 12, 1 | wrap | stopped |" in table(figures, ["all"])
    assert json.loads(figures[1].to_json())["recall"] == 0.56
    draw(figures, ["all"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_average_precision_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    quiet, end = rng.normal(size=50), rng.normal(1.0, size=20)
    expected = average_precision_score(np.repeat([0, 1], [50, 20]), np.concatenate([quiet, end]))
    assert average_precision(quiet, end) == pytest.approx(expected)
