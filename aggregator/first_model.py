"""A folder of recordings becomes the first release of a family, published to the plant's running fleet.

::

    files ─► Reading ─► machines checked ─► families/NAME.toml (or what stands there) ─► blind? ─► train, gate, sign
                                                                                                        │
      rollout, for who is there and who comes ◄─ published and listed ◄─ admitted ◄─ made/NAME-1.fedge ◄┘

What was signed lies in ``made`` before anybody else sees it, and goes from there when all is done. So a kill at any point is made
good by doing it again: what is in ``made`` is handed in, and nothing is trained anew. A published release is never replaced: another
version is made only when asked. Nothing is signed that did not pass the one gate (`aggregator.rounds.signing_gate`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from aggregator.errors import BlindDetectorError, MisfitError
from aggregator.exporter import SigningExporter
from aggregator.family_file import FamilySpec
from aggregator.family_folder import load_family
from aggregator.family_text import family_text
from aggregator.initial_release import InitialRelease, standardise_machines, train_release
from aggregator.machine_checks import Misfit, TrainingRows, check_machines, moving_sensors, training_rows
from aggregator.machine_fit import Fit, fit_of_machines, off_scale, seen_faults
from aggregator.publishing import PublishingFleet
from aggregator.reference_prior import mixture_sight, prior_of
from aggregator.rounds.release_checks import LEAST_FIRST_SIGHT
from models.bundles import read_bundle
from models.recordings.machines import Reading
from models.recordings.suggestions import COMMISSIONING, suggested
from protocol.bundle import open_bundle
from protocol.names import FamilyName, check_name
from runtime.durable_files import private_directory, write_durably
from runtime.errors import SettingsError
from service.plant import Plant

__all__ = ["FirstModel", "hand_in", "make_first_model", "next_version", "pending"]

Progress = Callable[[str, float], None]

LEAST_SIGHT: Final = 0.25
"""From here on the command says the word that the gate wants: sensors that do not follow each other allow 43 % at most, SKAB's 33 to
46 %. Below, what they do changes so much that a person has to look."""

_SHORTEST_COMMISSIONING: Final = 20

_TO_ALL: Final[dict[str, Any]] = {
    "dynamic": True,
    "groups": [{"name": "all", "percentage": 100}],
    "gates": None,
    "retry": {"FAILED": 3, "TIMED_OUT": 3},
}
"""Of version 1: nothing is there to compare it with, and whoever comes gets it."""

_IN_GROUPS: Final[dict[str, Any]] = {"dynamic": True}
"""Of a later one: the fleet's own groups and gates."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstModel:
    """What was made: the release's figures, how each machine would do, and sentences on what was left out or settled."""

    release: InitialRelease
    fit: Fit
    notes: tuple[str, ...]
    spec_file: Path


def next_version(fleet: PublishingFleet, family: str) -> int:
    """The number after the newest release that the fleet has of a family; raises FleetError."""
    return 1 + max((record.version for record in fleet.releases(FamilyName(family))), default=0)


def pending(plant: Plant, family: str) -> Path | None:
    """A release that was signed and not wholly handed in: somebody ended the command, or the fleet went away."""
    made = plant.aggregator_data / "made"
    of_family = re.compile(rf"{re.escape(check_name(family, 'family'))}-[0-9]+\.fedge")
    found = sorted(path for path in made.glob("*.fedge") if of_family.fullmatch(path.name))
    return found[0] if found else None


def make_first_model(
    plant: Plant,
    family: str,
    reading: Reading,
    exporter: SigningExporter,
    *,
    version: int,
    accepts_blind: bool,
    progress: Progress,
) -> tuple[FirstModel, Path]:
    """Train, judge and sign; returns what was made and where it lies until it is handed in.

    Args:
        plant: where the family's files go.
        family: its name.
        reading: the machines.
        exporter: signs.
        version: of the release.
        accepts_blind: a person knows that it hardly sees small disturbances, and wants it.
        progress: told the stage, and the finished share of it, 0 to 1.

    Raises:
        MisfitError: a machine that cannot be learnt from; says which, which column, and what to do.
        BlindDetectorError: it hardly sees small disturbances, no labelled fault says otherwise, and nobody has accepted that.
        SettingsError: the family's file is for other columns, or cannot be used.
        GateRefusedError, ExportFailedError: nothing worth signing was learnt.
        StorageError: the plant cannot be written to.
    """
    now = time.time()
    spec_file = plant.family_file(check_name(family, "family"))
    names = moving_sensors(reading)
    still = [name for name in reading.sensors if name not in names]
    notes = [f"column {name!r} never moves on any machine: it is left out" for name in still]
    if not names:
        raise MisfitError("no column moves on any machine: record machines at work")
    if misfits := check_machines(reading, names):
        raise MisfitError(_not_all_fit(len(reading.machines), misfits))
    text = None
    if not spec_file.exists():
        text = _text(family, names, reading, COMMISSIONING, now)
    spec = _spec(spec_file, text, names)
    rows = training_rows(reading, names, spec.features.spec())
    if text is not None:
        spec = _commissioned_long_enough(spec, reading, rows)
        text = _text(family, names, reading, spec.commissioning_rows, now)
    notes += [f"{spec_file} is there and is used as it stands"] if text is None else []
    notes += rows.notes
    if misfits := off_scale(spec, rows.normal):
        raise MisfitError(_not_all_fit(len(rows.normal), misfits))
    accepts_blind, word = _blindness(spec, rows, accepts_blind=accepts_blind)
    notes += [word] if word else []
    made = train_release(
        spec,
        rows.normal,
        exporter,
        created_at=now,
        version=version,
        accepts_blind=accepts_blind,
        progress=progress,
    )
    progress("asking each machine", 0.0)
    fit = fit_of_machines(spec, rows.normal, read_bundle(open_bundle(made.content, exporter.trusted)))
    path = _keep(plant, family, version, made.content, text, reading.answers)
    return FirstModel(release=made, fit=fit, notes=tuple(notes), spec_file=spec_file), path


def hand_in(fleet: PublishingFleet, content: bytes, release: str, made: Path) -> str:
    """Publish a release, list it, and have it rolled out to everybody; returns the rollout. Doing so again changes nothing.

    Raises:
        FleetError, UntrustedListError, ProtocolError: as `PublishingFleet.publish`; do it again.
    """
    fleet.publish(content)
    template = _TO_ALL if release.endswith("/1") else _IN_GROUPS
    rollout = fleet.start_rollout(template, release, f"{release} from recordings")
    made.unlink(missing_ok=True)
    return rollout


def _not_all_fit(machines: int, misfits: Sequence[Misfit]) -> str:
    fit = machines - len({misfit.machine for misfit in misfits})
    return f"fits: {fit} of {machines} machines; nothing was signed. " + "; ".join(map(str, misfits))


def _text(family: str, names: Sequence[str], reading: Reading, commissioning_rows: int, now: float) -> str:
    return family_text(
        family,
        names,
        machines=[machine.name for machine in reading.machines],
        sample_rate_hz=reading.sample_rate_hz,
        commissioning_rows=commissioning_rows,
        now=now,
    )


def _spec(path: Path, text: str | None, names: Sequence[str]) -> FamilySpec:
    """What the family's file says, or would; raises SettingsError where it is for other columns."""
    if text is not None:
        return load_family(path, text=text).spec()
    spec = load_family(path).spec()
    features = spec.features.spec()
    wanted = features.names if features.kind != "vibration" else ()
    if wanted and set(wanted) != set(names):
        missing = ", ".join(sorted(set(wanted) - set(names))) or "none is missing"
        more = ", ".join(sorted(set(names) - set(wanted))) or "none is new"
        raise SettingsError(
            f"{path} is for other columns (missing here: {missing}; new here: {more}): give recordings with its columns, or move the file"
            " away, and a new one is written"
        )
    return spec


def _commissioned_long_enough(spec: FamilySpec, reading: Reading, rows: TrainingRows) -> FamilySpec:
    """Fewest windows to commission on that show what the machines do: as suggested, up to four times as many, as a device goes on.

    Of short recordings at most a third. Where none suffices, as suggested: what leaves the scale then is told.
    """
    third = max(min(map(len, rows.normal.values())) // 3, _SHORTEST_COMMISSIONING)
    fewest = min(third, suggested(reading).commissioning_windows)
    tried = [
        msgspec.structs.replace(spec, commissioning_rows=fewest * times)
        for times in (1, 2, 3, 4)
        if fewest * times <= third
    ]
    return next((one for one in tried if not off_scale(one, rows.normal)), tried[0])


def _blindness(spec: FamilySpec, rows: TrainingRows, *, accepts_blind: bool) -> tuple[bool, str]:
    """(accept it, why) for a detector that sees less than half of small disturbances: labelled faults that it sees are a person's word.

    Raises:
        BlindDetectorError: neither is there.
    """
    if not spec.is_mixture:
        return accepts_blind, ""
    recordings = standardise_machines(rows.normal, spec.features.spec(), spec.commissioning_rows)
    prior = prior_of(recordings)
    sees = max(mixture_sight(recordings, prior))
    if sees >= LEAST_FIRST_SIGHT:
        return False, ""
    seen, events = seen_faults(spec, rows.normal, rows.faulty, prior)
    labelled = f", and {seen} of {events} labelled faults at once" if events else ""
    small = (
        f"{sees:.0%} of small disturbances (one sensor moved by three of its deviations) would be seen once enough windows"
        f" are counted{labelled}"
    )
    if sees >= LEAST_SIGHT:
        return True, f"{small}: what moves one sensor alone must move it further, or last"
    if events and 2 * seen >= events:
        return True, f"{small}, so it is signed"
    if accepts_blind:
        return True, f"{small}, which you have accepted"
    raise BlindDetectorError(
        f"{small}: alarms would come from what moves many sensors, or one of them far. Is that enough for these machines?"
        " If not: record more, or leave out columns that follow no other"
    )


def _keep(
    plant: Plant, family: str, version: int, content: bytes, text: str | None, answers: dict[str, str]
) -> Path:
    """The family's files, and last of all the release itself: what is there then is whole."""
    plant.families.mkdir(parents=True, exist_ok=True)
    write_durably(
        plant.reading_file(family), json.dumps(answers, indent=2, ensure_ascii=False).encode() + b"\n"
    )
    if text is not None:
        write_durably(plant.family_file(family), text.encode())
    path = private_directory(plant.aggregator_data / "made") / f"{family}-{version}.fedge"
    write_durably(path, content)
    return path
