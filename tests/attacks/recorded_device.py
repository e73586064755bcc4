"""A device whose every word to its aggregator is kept: the real learner, the real roles, the real account, the real client app.

Nothing about it is left to chance, so that two devices which differ in one window can be compared byte by byte: random bytes come from
a seed of the device and the question, ECDSA signs deterministically, and time is the work that is done with windows. So a reply that is
late because of what is in a window is a difference like any other.

Between the app and the road stands the real `Participation`: what it does with an exception is part of what leaves.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Metadata
from flwr.app.message import make_message
from numpy.typing import NDArray
from training_models import training_model

from edge_agent.errors import AggregatorAnswerError, FleetUnreachableError
from edge_agent.learner import prior_answers
from edge_agent.learner.anchor import Anchor
from edge_agent.learner.client_app import client_app
from edge_agent.learner.flower_internals import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from edge_agent.learner.learner_stats import Traffic
from edge_agent.learner.local_learner import LocalLearner
from edge_agent.learner.participation import Participation
from edge_agent.learner.sum_participant import SumParticipant
from edge_agent.learner.time_grid import TimeGrid
from edge_agent.privacy.account import DeviceAccount
from edge_agent.privacy.elapsed import Moment
from edge_agent.privacy.limits import OwnerLimits
from edge_agent.privacy.snapshots import Content
from edge_agent.sample_buffer import BufferedRows
from models.architecture import Architecture, initial_parameters
from models.detection.openings import age_counts
from models.detection.prior import rescaled
from models.training_model import TrainingModel
from protocol.messages.payloads import TrainingInvitation
from protocol.names import DeviceId
from protocol.secure_sum import messages
from protocol.secure_sum.device_role import DevicePolicy
from protocol.secure_sum.errors import SumMessageError
from protocol.training import TrainingSettings

Float = NDArray[np.float32]
Left = tuple[Any, ...]
"""One thing that left a device, in a form that can be compared."""

ARCHITECTURE: Final = Architecture(kind="dense-autoencoder", layers=(6, 4, 6))
FEATURES: Final = ARCHITECTURE.feature_count
CHAMPION: Final = initial_parameters(ARCHITECTURE, 1)
"""Of the approved release."""
STARTED_S: Final = 1_800_000_000.0


class SeededBytes:
    """What the operating system's generator is on a device; begins anew, from a seed of its own, with each question."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.begin("start")

    def begin(self, question: str) -> None:
        self._seed, self._count = f"{self._device}/{question}".encode(), 0

    def __call__(self, count: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(self._seed + self._count.to_bytes(8, "big")).digest(count)


class DeterministicKey:
    """A P-256 key whose signatures are a function of what is signed (RFC 6979)."""

    def __init__(self, secret: int) -> None:
        self._key = ec.derive_private_key(secret, ec.SECP256R1())

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    def sign(self, data: bytes, _: object) -> bytes:
        return self._key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


WINDOWS_A_SECOND: Final = 64.0
"""A slow machine, on which the grid's first point hides nothing."""


class Work:
    """Time as the work that was done in it, by windows that were looked at, and what was slept."""

    def __init__(self) -> None:
        self.done_s = 0.0

    def __call__(self) -> float:
        return self.done_s

    def sleep(self, seconds: float) -> None:
        self.done_s += seconds

    def look_at(self, windows: int) -> None:
        self.done_s += windows / WINDOWS_A_SECOND

    def working(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of windows whose work is counted like the model's."""

        def call(windows: Any, *arguments: Any) -> Any:
            self.look_at(len(windows))
            return function(windows, *arguments)

        return call


class WorkingModel:
    """The real training model, whose steps take time."""

    def __init__(self, work: Work) -> None:
        self._model, self._work = _model(), work
        self.architecture = self._model.architecture

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._model, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if arguments and name != "restore":
                self._work.look_at(len(arguments[0]))
            return method(*arguments, **options)

        return call


@dataclass
class RecordedRoad:
    """Implements `FlowerRoad`; keeps what the device says over it."""

    work: Work
    said: list[Left] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    replies: list[Message] = field(default_factory=list)
    is_deaf: bool = False
    took_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By a real clock, from a message of each type to its reply; not compared, for no two are alike."""

    def activate(self) -> None:
        self.said.append(("activate",))

    def heartbeat(self) -> None:
        self.said.append(("heartbeat",))

    def deactivate(self) -> None:
        self.said.append(("deactivate",))

    def pull(self) -> Message | None:
        return None

    def reply(self, message: Message) -> None:
        self.said.append((*left_of(message), f"after {self.work():.6f} s"))
        self.replies.append(message)
        if self.is_deaf:
            raise AggregatorAnswerError("nobody waits for this answer any more")


class RecordedDevice:
    """One device, and what left it.

    Args:
        name: its id.
        key: its identity.
        roster: the fleet's word.
        rows: standardised windows (n, F).
        unit: what one standardised step is (F,).
        folder: for the account.
        limits: the owner's.
        floors: the owner's.
        profile: how the approved release is trained.
        champion: parameters of the release that runs.
        fleet_is_away: nobody says who the others are.
        grid: when replies leave; by default one of the time that work takes.
    """

    def __init__(
        self,
        name: DeviceId,
        *,
        key: DeterministicKey,
        roster: Mapping[DeviceId, ec.EllipticCurvePublicKey],
        rows: Float,
        unit: NDArray[np.float64],
        folder: Path,
        limits: OwnerLimits,
        floors: DevicePolicy,
        profile: TrainingSettings,
        champion: Float,
        fleet_is_away: bool = False,
        grid: TimeGrid | None = None,
    ) -> None:
        self.name, self.random_bytes, self.work = name, SeededBytes(name), Work()
        self.public_key = key.public_key()
        self.road = RecordedRoad(self.work)
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self._limits, self._key, self._roster = limits, key, _Roster(roster, is_away=fleet_is_away)
        self._unit, self._floors, self._champion = unit, floors, champion
        self._grid = grid or TimeGrid(self.work, self.work.sleep)
        self._anchor = Anchor(
            release="pump/1",
            layout_sha256=ARCHITECTURE.layout_sha256,
            columns="0" * 64,
            profile=profile,
            graph_sha256="0" * 64,
            values=CHAMPION.astype("<f4").tobytes(),
        )
        self._now_s, self._rows = STARTED_S, rows
        self._start()

    def next_day(self, rows: Float) -> None:
        """A day later, with these windows more."""
        self.close()
        self._now_s += 90_000.0
        self._rows = np.vstack([self._rows, rows])
        self._start()

    def _start(self) -> None:
        moment = Moment(boot="boot", uptime_s=self._now_s, wall_s=self._now_s)
        self.account = DeviceAccount(
            self._folder / "privacy.sqlite",
            self._limits,
            clock=lambda: moment,
            snapshots=self._folder / "snapshots",
        )
        times = np.arange(len(self._rows), dtype=np.float64)
        kept = self.account.take_snapshot(
            Content(columns="0" * 64, scale="0"), BufferedRows(machine_s=times, wall_s=times, rows=self._rows)
        )
        self.learner = LocalLearner(
            WorkingModel(self.work),
            kept.rows,
            anchor=self._anchor,
            champion=self._champion,
            maximum_examples=10_000,
            random_bytes=self.random_bytes,
            unit=self._unit,
        )
        self.sums = SumParticipant(
            self.name,
            identity_key=self._key,  # type: ignore[arg-type]  # signs and shows its public half, as a key does
            roster=self._roster,
            policy=self._floors,
            budget=self.account,
            learner=self.learner,
            random_bytes=self.random_bytes,
            now=lambda: self._now_s,
        )
        self._participation = Participation(
            self.road,
            client_app(None, self.sums, grid=self._grid, told=self.account.refuse),
            TrainingInvitation(
                run_id="run-1",
                family="pump",
                base_release="pump/1",
                layout_sha256=ARCHITECTURE.layout_sha256,
                issued_at=STARTED_S,
                flower_address="localhost:1",
                minimum_windows=1,
                expires_at=STARTED_S + 1e9,
            ),
            now=lambda: self._now_s,
            clock=self.work,
            stop=threading.Event(),
            show=lambda _: None,
            draw=lambda: 0.5,
            settle=self.learner.settle,
        )

    def hear(self, kind: str, content: RecordDict) -> Message:
        """Hand the device one message of the aggregator; returns its reply, which is kept."""
        charges = self._account()
        with (
            patch.object(prior_answers, "age_counts", self.work.working(age_counts)),
            patch.object(prior_answers, "rescaled", self.work.working(rescaled)),
        ):
            started = time.monotonic()
            self._participation._answer(_message(kind, content))
            self.road.took_s[kind].append(time.monotonic() - started)
        if charged := sorted(self._account() - charges):
            self.road.said.append(("charged", kind, *charged))
        return self.road.replies[-1]

    def close(self) -> None:
        self.sums.forget()
        self.account.close()

    def _account(self) -> frozenset[str]:
        """What the account has recorded so far: what a difference of two of these shows is what one message has cost."""
        with closing(sqlite3.connect(self._folder / "privacy.sqlite")) as db:
            return frozenset(
                f"{table} {row!r}"
                for table in ("charges", "answers", "reveals")
                for row in db.execute(f"SELECT * FROM {table}")  # noqa: S608 - one of these three
            )


def left_of(message: Message) -> Left:
    """What of a reply can be seen; of a masked input only session, round and length, for its words are uniform."""
    kind = message.metadata.message_type
    if message.has_error():
        return ("refused", kind, message.error.code, message.error.reason)
    parts: list[Any] = []
    for name, record in sorted(message.content.items()):
        if isinstance(record, ArrayRecord):
            parts.append((name, *((key, array.data) for key, array in record.items())))
        else:
            parts.append((name, *((key, _seen(value)) for key, value in sorted(record.items()))))
    return ("answered", kind, *parts)


def masked_words(message: Message) -> bytes | None:
    """The words of a reply that is a masked input."""
    if message.has_error() or "sum" not in message.content.config_records:
        return None
    try:
        return messages.decode(message.content.config_records["sum"]["message"], messages.MaskedInput).words
    except SumMessageError:
        return None


def content_of(
    message: bytes,
    *,
    terms: str | None = None,
    question: str | None = None,
    arrays: Mapping[str, Float] | None = None,
) -> RecordDict:
    """A message of the aggregator as Flower carries it."""
    records: dict[str, Any] = {
        "sum": ConfigRecord({"message": message} | ({"terms": terms} if terms else {}))
    }
    if question is not None:
        records["question"] = ConfigRecord({"json": question})
        records["arrays"] = ArrayRecord({name: Array(vector) for name, vector in (arrays or {}).items()})
    return RecordDict(records)


class _Roster:
    def __init__(self, keys: Mapping[DeviceId, ec.EllipticCurvePublicKey], *, is_away: bool) -> None:
        self._keys, self._is_away = keys, is_away

    def keys(self, _: frozenset[DeviceId]) -> Mapping[DeviceId, ec.EllipticCurvePublicKey]:
        if self._is_away:
            raise FleetUnreachableError("the fleet is away")
        return self._keys


def _seen(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        masked = messages.decode(value, messages.MaskedInput)
    except SumMessageError:
        return value
    return ("masked", masked.session, masked.round_number, len(masked.words))


def _message(kind: str, content: RecordDict) -> Message:
    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="",
        created_at=4e9, ttl=60.0, message_type=kind,
    )  # fmt: skip
    return make_message(metadata=metadata, content=content)


_CACHED: dict[str, TrainingModel] = {}


def _model() -> TrainingModel:
    """One LiteRT model for all devices; its state is overwritten by every question."""
    if not _CACHED:
        _CACHED["model"] = TrainingModel(training_model(ARCHITECTURE), ARCHITECTURE)
    return _CACHED["model"]
