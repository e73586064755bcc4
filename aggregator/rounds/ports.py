"""What a training run needs of the world, as ports. Adapters implement them; tests pass their own.

`Federation` is the Flower side, `ReleaseFleet` the fleet's HTTP API, `InvitationBoard` MQTT, `Exporter` TensorFlow in a
child process. All are called from the one worker thread that drives runs, so they are plain blocking calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aggregator.rounds.candidates import Candidate
from aggregator.rounds.collector import Collector
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.signing_gate import Cleared
from protocol.messages.payloads import TrainingInvitation
from protocol.names import DeviceId, FamilyName, RunId

__all__ = [
    "Exporter",
    "Federation",
    "InvitationBoard",
    "Member",
    "ReleaseFleet",
    "ReleaseRecord",
    "Session",
]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A device of the family, as the fleet knows it: who, its key (PEM), whether it is there."""

    device: DeviceId
    public_key: bytes
    is_online: bool


@dataclass(frozen=True, kw_only=True)
class ReleaseRecord:
    """A release as the fleet lists it; a withdrawn one keeps its version but is nobody's champion.

    `desired_devices` is how many devices shall run it now; 0 from a fleet that does not say. `is_approved`: a person approved a rollout
    of it, so that devices have made it their anchor (`trust_region`).
    """

    release: str
    version: int
    is_withdrawn: bool = False
    desired_devices: int = 0
    is_approved: bool = False


class Session(Protocol):
    """The devices of one run while they take part."""

    @property
    def collector(self) -> Collector:
        """Asks them, and adds up."""

    def joined(self) -> Mapping[DeviceId, str]:
        """Who is connected now, each with the stamp of its joining: another stamp is another joining."""

    def close(self, outcome: str) -> None:
        """Tell those who ask that the run is over; closing twice is no error."""


class Federation(Protocol):
    """Opens sessions with devices."""

    def open(self, run: RunId, roster: Mapping[DeviceId, bytes], policy: FamilySettings) -> Session:
        """Let the devices of `roster` (device → public key PEM) take part in `run`, and no others, as `policy` says.

        Raises:
            FlowerServerError, RosterError: the message says what to mend; the run fails.
        """


class ReleaseFleet(Protocol):
    """The fleet, as far as training needs it. Every call may raise FleetUnreachableError or FleetRefusedError."""

    def members(self, family: FamilyName) -> list[Member]:
        """The devices of a family that are not revoked."""

    def releases(self, family: FamilyName) -> list[ReleaseRecord]:
        """Its releases, any order."""

    def bundle(self, family: FamilyName, version: int) -> bytes:
        """The bytes of a release's bundle, unverified."""

    def publish(self, content: bytes) -> None:
        """Hand a bundle in; the same bytes again are no error. Status 409: another bundle has this release id."""

    def start_rollout(self, template: Mapping[str, Any], release: str, name: str) -> str:
        """Create and start a rollout of `release`, unless one called `name` exists; returns its id."""


class InvitationBoard(Protocol):
    """The retained invitation of each family. Returns at once; delivery is retried until it holds."""

    def post(self, invitation: TrainingInvitation) -> None:
        """Show this invitation to the family's devices until it is cleared."""

    def clear(self, family: FamilyName) -> None:
        """Take the family's invitation down."""


class Exporter(Protocol):
    """Makes releases, away from this process' memory. Raises ExportFailedError."""

    def int8_model(self, candidate: Candidate) -> bytes:
        """The candidate as int8 ``.tflite``, activations quantised to [low, high]."""

    def release(self, cleared: Cleared) -> bytes:
        """The complete signed bundle of what the gate let through. Same candidate, same bytes."""
