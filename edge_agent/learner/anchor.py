"""The model this device lets itself be trained near: that of the last release which a person approved.

::

    first release installed ─┐
    approved by the fleet ───┼─► anchor: parameters, profile, columns, ─► every model asked about lies within `trust_radius` of it
    trusted by the owner ────┘           training graph

Whoever runs training also signs releases. Were the anchor the release that runs, two malicious releases would walk anywhere;
so it moves by a person's word alone: the fleet's, in its sealed instruction (`Journal.approved`), once that release is committed here, or the
device owner's (``fedge-agent trust-release``). A release with another layout, other columns, another training profile or another
training graph than the anchor's can be run, but not trained on, until somebody has approved it; nor can one that lies too far from it.
The graph is a program: one that its signer chose could write windows into an update, whatever the parameters are. The same layout
gives the same graph, so an honest release of this version has it.

Kept in a file of its own, wholly: bundles are pruned, and what was trusted must not be looked up by a name that may be given again.
A damaged file counts as none, which is never looser: the device begins with its first release again, and with the last approval.

Source: `docs/decisions/0028-anchor-and-profile.md`.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edge_agent.errors import NotReadyError, ReleaseRefusedError
from edge_agent.installation.active import read_active
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.journal import BundleRef, Journal
from edge_agent.installation.journal_file import JournalFile
from edge_agent.installation.verification import verify
from edge_agent.settings import StatePaths
from models.bundles import ModelBundle
from protocol.training import TrainingSettings
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import StorageError
from runtime.unreadable import UNREADABLE

__all__ = ["Anchor", "anchor_of", "read_anchor", "require_trained_near", "trust_active_release"]

_log: Final = logging.getLogger(__name__)


class Anchor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person approved of one release.

    Attributes:
        release: its name, for words.
        layout_sha256: its model's layout.
        columns: fingerprint of its features.
        profile: how it lets itself be trained; None: not at all.
        graph_sha256: of the file that trains and scores (``training.tflite``).
        values: its parameters (P,), little-endian float32.
        approval: the approved bundle that this was made under, or superseded: it does not move the anchor again; empty: none was.
    """

    release: str
    layout_sha256: str
    columns: str
    profile: TrainingSettings | None
    graph_sha256: str
    values: bytes
    approval: str = ""

    @property
    def parameters(self) -> NDArray[np.float32]:
        """The parameters (P,)."""
        return np.frombuffer(self.values, "<f4").astype(np.float32)


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    content: bytes
    digest: bytes


_decoder: Final = msgspec.msgpack.Decoder(_File)
_anchor_decoder: Final = msgspec.msgpack.Decoder(Anchor)


def anchor_of(bundle: ModelBundle, *, approval: str = "") -> Anchor:
    """The anchor that this bundle is."""
    manifest = bundle.manifest
    return Anchor(
        release=manifest.release,
        layout_sha256=bundle.architecture.layout_sha256,
        columns=manifest.features.fingerprint,
        profile=manifest.training,
        graph_sha256=hashlib.sha256(bundle.training_model).hexdigest(),
        values=np.asarray(bundle.parameters, "<f4").tobytes(),
        approval=approval,
    )


def read_anchor(paths: StatePaths) -> Anchor:
    """The anchor as it is by now: moved if the fleet has approved a release that is committed here, and kept.

    Raises:
        NotReadyError: no release is installed yet, or the one that the anchor shall be is not whole on this disk.
        StorageError: the disk refuses.
    """
    journal = JournalFile(paths.install_journal).read() or Journal()
    held, approved = _load(paths.anchor), journal.approved
    is_new = approved is not None and (held is None or held.approval != approved.sha256)
    if approved is not None and is_new and journal.has_proven(approved.sha256):
        return _adopt(paths, approved, approval=approved.sha256)
    if held is not None:
        return held
    first = journal.factory
    if first is None:
        raise NotReadyError(
            "no release has passed its trial here yet; there is none to keep a training near to"
        )
    return _adopt(paths, first, approval="")


def trust_active_release(paths: StatePaths) -> str:
    """Make the release that runs the anchor, by the word of this device's owner; returns what happened, in words.

    Raises:
        NotReadyError: none runs, or it is still on trial.
        StorageError, ReleaseRefusedError: the disk refuses, or the bundle does not verify.
    """
    active = read_active(paths.install_journal, paths.bundles)
    if active is None:
        raise NotReadyError("no release is installed; there is none to trust")
    if active.is_trial:
        raise NotReadyError(f"{active.release} is still on trial; trust it once it is committed")
    journal = JournalFile(paths.install_journal).read() or Journal()
    before = _load(paths.anchor)
    approval = journal.approved.sha256 if journal.approved is not None else ""
    _keep(paths.anchor, anchor_of(active.bundle, approval=approval))
    trained = (
        "training stays near it from the next run on"
        if active.bundle.manifest.training is not None
        else "but it carries no training profile, so this device does not train on it"
    )
    instead = (
        f" instead of {before.release}" if before is not None and before.release != active.release else ""
    )
    return f"{active.release} is trusted{instead}; {trained}"


def require_trained_near(anchor: Anchor, bundle: ModelBundle, *, widest: float) -> TrainingSettings:
    """The profile to train by, where the release that runs may be trained on.

    Args:
        anchor: what training stays near to.
        bundle: the release that runs.
        widest: trust radius that the owner puts up with (`OwnerLimits.maximum_trust_radius`).

    Raises:
        NotReadyError: it has another layout, other columns, profile or graph than the anchor, or none has a profile; or its parameters lie
            further from the anchor's than any that are asked about: an assessment shows how it scores this device's windows, too.
    """
    manifest = bundle.manifest
    how = "approve its rollout at the fleet, or run `fedge-agent trust-release` here"
    for what, runs, trusted in (
        ("layout", bundle.architecture.layout_sha256, anchor.layout_sha256),
        ("columns", manifest.features.fingerprint, anchor.columns),
        ("training profile", manifest.training, anchor.profile),
        ("training graph", hashlib.sha256(bundle.training_model).hexdigest(), anchor.graph_sha256),
    ):
        if runs != trusted:
            raise NotReadyError(
                f"{manifest.release} has another {what} than {anchor.release}, the last release that was approved: {how}"
            )
    if anchor.profile is None:
        raise NotReadyError(
            f"{manifest.release} carries no training profile, so no device trains on it; publish a release that has one"
        )
    radius, norm = anchor.profile.trust_radius or 0.0, anchor.profile.update_norm or 0.0
    # Who signs releases chooses these; an approval may overlook them.
    if not max(radius, norm) <= widest:
        raise NotReadyError(
            f"{anchor.release} says trust_radius = {radius:g} and update_norm = {norm:g}; this device trains within {widest:g}"
            " (privacy.maximum_trust_radius), beyond which a model can be made to show one window"
        )
    away = float(np.linalg.norm(np.asarray(bundle.parameters, np.float64) - anchor.parameters))
    # Written positively, so that NaN fails.
    if not away <= radius:
        raise NotReadyError(
            f"{manifest.release} lies {away:.4g} from {anchor.release}, the last release that was approved, whose trust radius is"
            f" {radius:g}: {how}"
        )
    return anchor.profile


def _adopt(paths: StatePaths, ref: BundleRef, *, approval: str) -> Anchor:
    try:
        bundle = verify(BundleStore(paths.bundles).read(ref.sha256), ref.sha256)
    except (StorageError, ReleaseRefusedError) as error:
        raise NotReadyError(
            f"{ref.release}, which training shall stay near to, cannot be used: {error}"
        ) from None
    anchor = anchor_of(bundle, approval=approval)
    _keep(paths.anchor, anchor)
    _log.info("anchor_moved release=%s approved=%s", anchor.release, bool(approval))
    return anchor


def _load(path: Path) -> Anchor | None:
    content = read_bytes(path)
    if content is None:
        return None
    try:
        file = _decoder.decode(content)
        if hashlib.sha256(file.content).digest() == file.digest:
            return _anchor_decoder.decode(file.content)
        _log.warning("anchor_damaged digest")
    except UNREADABLE as error:
        _log.warning("anchor_damaged %s", error)
    return None


def _keep(path: Path, anchor: Anchor) -> None:
    content = msgspec.msgpack.encode(anchor)
    private_directory(path.parent)
    file = _File(content=content, digest=hashlib.sha256(content).digest())
    write_durably(path, msgspec.msgpack.encode(file), mode=0o600)
