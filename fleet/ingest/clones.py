"""Two devices with one identity (one SD card copied to another): seen in the stream, named, and over when it is over.

The broker knows one client of that name, so each connection throws the other out. Two signs cannot come from one device:

* two boots **with one number** speak in turn: a device counts its starts, so a second boot of a number is another
  device, or one whose memory was restored from a copy; and then the first boot never speaks again;
* two boots **are lost in turn**: a last will is said by the broker when a connection breaks, so it is no straggler. One
  device never loses an earlier boot after a later one.

A single turn may be an accident of the road; `SIGNS_NEEDED` turns are none. Old events out of an outbox, restarts and
clocks that step make neither sign.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import structlog
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.ingest.boots import BootBook, KnownBoot
from fleet.ingest.device_view import DeviceView
from fleet.storage.boot_tables import LATEST_FIRST, Boot, IdentityConflict
from fleet.storage.bulk import among

__all__ = ["CALM_S", "ConflictWatch", "end_conflicts", "is_over"]

SIGNS_NEEDED: Final = 3
"""Turns of the word between two boots before it is said aloud: there and back may be a message that came late."""

CALM_S: Final = 3600.0
"""Without a further sign for so long, a conflict is over; longer than devices that are thrown out pause."""

_log = structlog.get_logger()


class ConflictWatch:
    """Looks out for the two signs in one batch of events.

    Args:
        session: the transaction of the batch.
        devices: of whom the batch speaks.
        boots: of which it speaks.
    """

    def __init__(self, session: Session, devices: Collection[str], boots: BootBook) -> None:
        self._session, self._boots = session, boots
        named = among(session, [IdentityConflict.device], [(device,) for device in devices])
        rows = session.scalars(select(IdentityConflict).where(named))
        self._seen = {row.device: row for row in rows}
        self._lone: set[tuple[str, str]] = set()

    def hear(self, device: DeviceView, boot: KnownBoot, received_at: float) -> None:
        """A boot says something new: is it one of two with the same number?

        Args:
            device: whose boot it is, with the boot believed in until now.
            boot: who speaks.
            received_at: Unix seconds.
        """
        conflict = self._seen.get(device.id)
        if conflict is not None:
            if conflict.is_one_number:
                self._turn(conflict, device, boot, received_at)
        elif (
            boot.number
            and device.boot_id not in {boot.boot_id, None}
            and (device.id, boot.boot_id) not in self._lone
        ):
            # an old boot whose outbox is sent: one look for all that the batch holds of it
            self._lone.add((device.id, boot.boot_id))
            self._suspect(
                boot,
                received_at,
                Boot.number == boot.number,
                Boot.first_received > boot.first_received,
                Boot.last_received >= received_at - CALM_S,
            )

    def lose(self, device: DeviceView, boot: KnownBoot, received_at: float) -> None:
        """The broker says that a boot is lost: was another one lost since it was the last time? Arguments as `hear`."""
        before, boot.will_received = boot.will_received, received_at
        conflict = self._seen.get(device.id)
        if conflict is not None:
            self._turn(conflict, device, boot, received_at)
        elif before is not None and before >= received_at - CALM_S:
            self._suspect(boot, received_at, Boot.will_received > before)

    def _suspect(self, boot: KnownBoot, received_at: float, *signs: ColumnElement[bool]) -> None:
        """Note a first sign, if another boot of the device shows it too."""
        self._boots.write()
        others = select(Boot.boot_id, Boot.number).where(
            Boot.device == boot.device, Boot.boot_id != boot.boot_id, *signs
        )
        rival = self._session.execute(others.limit(1)).first()
        if rival is None:
            return
        conflict = self._seen[boot.device] = IdentityConflict(
            device=boot.device,
            boots=sorted([boot.boot_id, rival.boot_id]),
            speaker=boot.boot_id,
            signs=1,
            seen_at=received_at,
            since=None,
            is_one_number=0 < boot.number == rival.number,
            message="",
        )
        self._session.add(conflict)

    def _turn(
        self, conflict: IdentityConflict, device: DeviceView, boot: KnownBoot, received_at: float
    ) -> None:
        """The word has gone to the other of the two, or stays where it was, which says nothing."""
        if boot.boot_id not in conflict.boots or conflict.speaker == boot.boot_id:
            return
        conflict.speaker, conflict.signs, conflict.seen_at = boot.boot_id, conflict.signs + 1, received_at
        if conflict.since is not None or conflict.signs < SIGNS_NEEDED:
            return
        self._boots.write()
        boots = self._session.execute(
            select(Boot.boot_id, Boot.number, Boot.hardware)
            .where(Boot.device == device.id, Boot.boot_id.in_(conflict.boots))
            .order_by(Boot.boot_id)
        )
        who = ", ".join(f"{one.boot_id} (start {one.number or '?'}, {one.hardware or '?'})" for one in boots)
        conflict.since = received_at
        conflict.message = (
            f"two devices use the identity {device.id}: boots {who}; re-enrol one of them under another name"
        )
        audit.record(
            self._session,
            at=received_at,
            actor="fleet",
            action="identity_conflict",
            subject=device.id,
            message=conflict.message,
        )
        _log.warning("identity_conflict", device=device.id, message=conflict.message)


def is_over(now: float) -> ColumnElement[bool]:
    """That a conflict has shown no sign for `CALM_S`; one in the future was seen by a clock of ours that was wrong."""
    return ~IdentityConflict.seen_at.between(now - CALM_S, now + CALM_S)


def end_conflicts(session: Session, now: float) -> list[str]:
    """End conflicts without a sign for `CALM_S`; the boot heard last is the one that lives. Gives the devices.

    Signs that never were enough to say anything are forgotten in silence.
    """
    over = session.scalars(select(IdentityConflict).where(is_over(now))).all()
    for conflict in over:
        session.delete(conflict)
        if conflict.since is None:
            continue
        boots = select(Boot).where(Boot.device == conflict.device, Boot.boot_id.in_(conflict.boots))
        lives = max(session.scalars(boots), key=lambda boot: boot.last_received)
        latest = select(Boot).where(Boot.device == conflict.device).order_by(*LATEST_FIRST)
        last = session.scalars(latest.limit(1)).first()
        if last is not None and last is not lives and last.last_received <= lives.last_received:
            lives.era = last.era + 1
        audit.record(
            session,
            at=now,
            actor="fleet",
            action="identity_conflict_ended",
            subject=conflict.device,
            since=conflict.since,
            last_sign_at=conflict.seen_at,
        )
        _log.info("identity_conflict_ended", device=conflict.device)
    return [conflict.device for conflict in over]
