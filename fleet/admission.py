"""What people decide about a device: whether it gets in, what it is, and that it stays out. Each with its audit line.

::

    WAITING ── approve ─► ENROLLED ── revoke ─► REVOKED      family, site and labels: the claim's, then `assign`'s
       └─────── refuse ─────────────────────────►  (final)
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType, field
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.auth.claim_tokens import check_family
from fleet.device_commands import find_device
from fleet.errors import ConflictError, UnacceptableError
from fleet.rollouts.desired_states import Wish, write_desired
from fleet.rollouts.others import let_go
from fleet.rollouts.states import OCCUPYING
from fleet.rollouts.windows import check_zone_label
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.rollout_tables import RolloutExecution, RolloutRecord
from protocol.labels import MAX_LABELS, Label, Labels, OneLine
from protocol.names import DeviceId, check_name

__all__ = ["Assignment", "approve", "assign", "refuse", "revoke"]


class Assignment(Struct, frozen=True, kw_only=True):
    """What a device shall be from now on; what is left out stays.

    remove_labels: names of labels that go. is_unreleased: no release is of `family` yet, on purpose.
    """

    family: str | UnsetType = UNSET
    site: Label | UnsetType = UNSET
    labels: Labels = field(default_factory=dict)
    remove_labels: list[OneLine] = field(default_factory=list)
    is_unreleased: bool = False


def approve(session: Session, device_id: str, *, fingerprint: str, actor: str, now: float) -> Device:
    """Let a device in that waits; approving it twice changes nothing.

    Args:
        session: the transaction.
        device_id: its id.
        fingerprint: of the key that the person has seen, hex: another one is not what they approve.
        actor: who, for the audit log.
        now: Unix seconds.

    Raises:
        NotFoundError: there is no such device.
        ConflictError: it is revoked, or has another key.
    """
    device = find_device(session, device_id)
    if device.fingerprint != fingerprint:
        raise ConflictError(
            f"device {device_id!r} has key {device.fingerprint}, and {fingerprint[:80]!r} was to be approved: look again"
        )
    if device.state == DeviceState.REVOKED:
        raise ConflictError(
            f"device {device_id!r} is revoked, which is final; it may enrol under another id and key"
        )
    if device.state == DeviceState.WAITING:
        device.state = DeviceState.ENROLLED
        audit.record(
            session, at=now, actor=actor, action="device_approved", subject=device_id, fingerprint=fingerprint
        )
    return device


def refuse(session: Session, device_id: str, *, actor: str, now: float) -> Device:
    """Keep a device out that waits, for good; raises as `approve`, and ConflictError where it is enrolled."""
    device = find_device(session, device_id)
    if device.state == DeviceState.ENROLLED:
        raise ConflictError(
            f"device {device_id!r} is enrolled; shut it out with: fedge-fleet devices revoke {device_id}"
        )
    if device.state == DeviceState.WAITING:
        _shut_out(session, device, "device_refused", actor, now)
    return device


def revoke(session: Session, device_id: str, *, actor: str, now: float) -> Device:
    """Shut a device out; raises NotFoundError. Revoking twice changes nothing."""
    device = find_device(session, device_id)
    if device.state != DeviceState.REVOKED:
        _shut_out(session, device, "device_revoked", actor, now)
    return device


def assign(session: Session, device_id: str, wanted: Assignment, *, actor: str, now: float) -> Device:
    """Change what a device is. Of another family, it is no longer told to run a release of the former one.

    The caller announces its desired state after the commit.

    Raises:
        NotFoundError: there is no such device.
        TopicError: the family is no name.
        UnacceptableError: no release is of the family, there would be too many labels, or the label ``time_zone`` is none.
        ConflictError: the family is to change and a rollout is under way on the device, or it is revoked.
    """
    device = find_device(session, device_id)
    if device.state == DeviceState.REVOKED:
        raise ConflictError(f"device {device_id!r} is revoked: what it is matters to nobody any more")
    before = _what_it_is(device)
    if wanted.family is not UNSET and wanted.family != device.family:
        check_name(wanted.family, "family")
        if not wanted.is_unreleased:
            check_family(session, wanted.family)
        _check_free(session, device_id)
        device.family = wanted.family
        let_go(session, DeviceId(device_id), f"family {wanted.family}")
        write_desired(session, {DeviceId(device_id): Wish(execution="", release=None)}, now)
    if wanted.site is not UNSET:
        device.site = wanted.site
    labels = {name: text for name, text in device.labels.items() if name not in wanted.remove_labels}
    labels |= wanted.labels
    if len(labels) > MAX_LABELS or "site" in labels:
        raise UnacceptableError(f"a device has at most {MAX_LABELS} labels, and its site is none of them")
    check_zone_label(wanted.labels)
    device.labels = labels
    after = _what_it_is(device)
    if after != before:
        audit.record(
            session,
            at=now,
            actor=actor,
            action="device_assigned",
            subject=device_id,
            before=before,
            after=after,
        )
    return device


def _shut_out(session: Session, device: Device, action: str, actor: str, now: float) -> None:
    device.state, device.revoked_at, device.online = DeviceState.REVOKED, now, False
    audit.record(
        session, at=now, actor=actor, action=action, subject=device.id, fingerprint=device.fingerprint
    )


def _check_free(session: Session, device_id: str) -> None:
    rollout = session.scalar(
        select(RolloutRecord.id)
        .join(RolloutExecution, RolloutExecution.rollout == RolloutRecord.id)
        .where(RolloutExecution.device == device_id, RolloutRecord.state.in_(list(OCCUPYING)))
    )
    if rollout is not None:
        raise ConflictError(
            f"rollout {rollout} is under way on device {device_id!r}: its family can change when that has ended"
        )


def _what_it_is(device: Device) -> dict[str, object]:
    return {"family": device.family, "site": device.site, "labels": dict(device.labels)}
