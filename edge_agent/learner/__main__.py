"""``python -m edge_agent.learner --config agent.toml --invitation FILE``: started by the agent, not by people.

Exit codes: 0 the run ended (or SIGTERM came), 3 not ready or the invitation expired before this device got in,
4 the aggregator refuses this device, 1 anything else. The last line on stderr says why.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from edge_agent.errors import AggregatorRefusedError, NotEnrolledError, NotReadyError
from edge_agent.settings import Settings, load_agent_settings
from protocol.errors import InvitationError
from protocol.identity import IdentityKey
from protocol.messages.payloads import TrainingInvitation
from protocol.names import DeviceId
from runtime.bounded_logs import log_to_stderr
from runtime.errors import FedgeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.learner.local_learner import LocalLearner
    from edge_agent.learner.sum_participant import SumParticipant
    from edge_agent.live_context import Healthy
    from edge_agent.privacy.account import DeviceAccount
    from edge_agent.sample_buffer import BufferedRows
    from models.bundles import ModelBundle
    from models.learning_runtimes import LearningModel
    from protocol.manifest import FeatureSpec
    from protocol.training import TrainingSettings

__all__ = ["main"]

ENDED: Final = 0
FAILED: Final = 1
NOT_READY: Final = 3
REFUSED: Final = 4

NICENESS: Final = 10
"""Detection comes first: the learner takes the processor time that is left."""

COMPARED_WINDOWS: Final = 256
"""Newest windows on which int8 is compared with float: a few milliseconds, and a mean that is stable to a few percent."""

_log: Final = logging.getLogger("edge_agent.learner")


class _DismissedError(BaseException):
    """SIGTERM or SIGINT: raised wherever the main thread is, so that a long training ends at once too."""


def main(arguments: list[str] | None = None) -> int:
    """Take part in one run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_agent.learner", description="Take part in one training run."
    )
    parser.add_argument("--config", type=Path, required=True, help="agent.toml of this device")
    parser.add_argument("--invitation", type=Path, required=True, help="the invitation, as JSON")
    options = parser.parse_args(arguments)
    log_to_stderr("%(asctime)s %(levelname)s %(name)s %(message)s")
    # httpx announces each request at INFO; ten lines a second say nothing.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: _dismiss(stop, number, frame))
    signal.signal(signal.SIGINT, lambda number, frame: _dismiss(stop, number, frame))
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # no such file where this is no Linux
        # Where memory runs out the guest goes, and who watches stays.
        Path("/proc/self/oom_score_adj").write_text("900", encoding="ascii")
    try:
        return _run(options.config, options.invitation, stop)
    except _DismissedError:
        return ENDED
    except (NotReadyError, NotEnrolledError, InvitationError) as error:
        return _end(NOT_READY, f"not ready: {error}")
    except AggregatorRefusedError as error:
        return _end(REFUSED, f"refused by the aggregator: {error}")
    except FedgeError as error:
        return _end(FAILED, str(error))


def _run(config: Path, invitation_file: Path, stop: threading.Event) -> int:
    # What costs nothing is checked before Flower and LiteRT are imported: a device that is not ready says so in 0.1 s.
    from edge_agent.aggregator_trust import AggregatorTrust
    from edge_agent.identity_key import open_identity
    from edge_agent.learner.anchor import read_anchor, require_trained_near
    from edge_agent.learner.enrolled_files import read_active_bundle, read_invitation

    settings = load_agent_settings(config)
    invitation = read_invitation(invitation_file)
    trust = AggregatorTrust(settings)
    assert settings.flower is not None  # noqa: S101 - for the type checker; without it there is no trust
    aggregator_key = trust.signer(invitation, time.time())
    bundle = read_active_bundle(settings.paths)
    if bundle.architecture.layout_sha256 != invitation.layout_sha256:
        raise NotReadyError(
            f"run {invitation.run_id} trains layout {invitation.layout_sha256[:12]}…, {bundle.manifest.release} has {bundle.architecture.layout_sha256[:12]}…"
        )
    anchor = read_anchor(settings.paths)
    profile = require_trained_near(anchor, bundle, widest=settings.privacy.maximum_trust_radius)
    key = open_identity(settings)

    from edge_agent.learner.client_app import client_app
    from edge_agent.learner.flower_client import FlowerClient
    from edge_agent.learner.learner_stats import StatsFile
    from edge_agent.learner.local_learner import LocalLearner
    from edge_agent.learner.participation import Participation
    from edge_agent.learner.time_grid import TimeGrid
    from edge_agent.privacy.account import DeviceAccount
    from protocol.signed_requests import RequestSigner

    model = _model(bundle, settings)
    columns = bundle.manifest.features
    account = DeviceAccount(settings.paths.privacy, settings.privacy, snapshots=settings.paths.snapshot)
    kept = _rows(settings, account, invitation, columns, profile)
    _compare(bundle, model, kept.rows[-COMPARED_WINDOWS:])
    healthy = _as_judged(settings, columns, kept)
    learner = LocalLearner(
        model,
        kept.rows,
        anchor=anchor,
        champion=bundle.parameters,
        quantile=bundle.manifest.threshold.quantile,
        maximum_examples=settings.learner.maximum_examples,
        unit=healthy.unit if healthy is not None else None,
        seen=healthy.seen if healthy is not None else None,
    )
    sums = _sum_participant(settings, key, learner, account) if settings.fleet else None
    plain = learner if settings.learner.plain_answers else None
    # A process that is dismissed does not wait for its grid.
    grid = TimeGrid(time.monotonic, stop.wait)
    client = FlowerClient(
        invitation.flower_address,
        settings.flower.ca_file,
        RequestSigner(key, aggregator_key, clock=time.monotonic),
    )
    stats = StatsFile(settings.paths.learner_stats)
    participation = Participation(
        client,
        client_app(plain, sums, grid=grid, told=account.refuse),
        invitation,
        now=time.time,
        clock=time.monotonic,
        stop=stop,
        show=stats.show,
        draw=random.random,
        settle=learner.settle,
    )
    _log.info("learner_started run=%s release=%s", invitation.run_id, bundle.manifest.release)
    try:
        joined = participation.take_part()
    finally:
        if sums is not None:
            sums.forget()
        account.close()
        client.close()
    if not joined and not stop.is_set():
        return _end(
            NOT_READY,
            f"the invitation to run {invitation.run_id} expired before the aggregator could be reached",
        )
    return ENDED


def _model(bundle: ModelBundle, settings: Settings) -> LearningModel:
    from models.errors import RuntimeMissingError
    from models.learning_runtimes import open_learning_model

    try:
        return open_learning_model(bundle.training_model, bundle.architecture, settings.learner.runtime)
    except RuntimeMissingError as error:
        raise NotReadyError(str(error)) from None


def _compare(bundle: ModelBundle, model: LearningModel, rows: NDArray[np.float32]) -> None:
    """One line for the device's owner: what int8 costs here, on windows that stay here."""
    from models.errors import ModelError
    from models.int8_agreement import compare_on_windows
    from models.int8_model import Int8Model

    try:
        int8 = Int8Model(bundle.int8_model, bundle.architecture.kind)
        model.restore(bundle.parameters)
        found = compare_on_windows(int8, model, rows)
    except ModelError as error:
        _log.warning("int8_not_compared release=%s error=%s", bundle.manifest.release, error)
        return
    _log.info(
        "int8_compared release=%s windows=%d output_error=%.2g score_error=%.2g",
        bundle.manifest.release,
        found.windows,
        found.output_error,
        found.score_error,
    )


def _sum_participant(
    settings: Settings, key: IdentityKey, learner: LocalLearner, account: DeviceAccount
) -> SumParticipant:
    from edge_agent.enrolled import load_enrolled
    from edge_agent.fleet_client import FleetClient, FleetEndpoint
    from edge_agent.learner.family_roster import FamilyRoster
    from edge_agent.learner.sum_participant import SumParticipant
    from protocol.secure_sum.device_role import DevicePolicy

    assert settings.fleet is not None  # noqa: S101 - for the type checker; the caller asked
    device = load_enrolled(settings.paths.enrolment).device
    endpoint = FleetEndpoint(url=settings.fleet.url, ca_file=settings.fleet.ca_file)
    fleet = FleetClient(endpoint=endpoint, device=device, key=key)
    return SumParticipant(
        DeviceId(device),
        identity_key=key,
        roster=FamilyRoster(fleet.family_roster, clock=time.monotonic),
        policy=DevicePolicy(
            minimum_cohort=settings.learner.minimum_cohort,
            requires_confirmation=settings.learner.requires_confirmation,
            split_view_safe=settings.learner.split_view_safe or settings.learner.requires_confirmation,
        ),
        budget=account,
        learner=learner,
        random_bytes=os.urandom,
        now=time.time,
    )


def _rows(
    settings: Settings,
    account: DeviceAccount,
    invitation: TrainingInvitation,
    columns: FeatureSpec,
    profile: TrainingSettings,
) -> BufferedRows:
    """The snapshot of windows of the release's own columns: what was buffered of others, nothing is taught of."""
    from edge_agent.detection_memory import read_scale
    from edge_agent.privacy.snapshots import content_of
    from edge_agent.sample_buffer import fingerprint_of, read_rows

    most = settings.learner.maximum_examples
    # Whoever signs a release may write one window into its profile: the owner's floor holds for what is answered, not for what is kept.
    for what, counted, remedy in (
        ("learner.maximum_examples", most, "raise it"),
        ("maximum_examples of the release's training profile", profile.maximum_examples, "it wants another"),
    ):
        if counted < settings.fewest_windows:
            raise NotReadyError(
                f"{what} = {counted} is less than the {settings.fewest_windows} windows that answers are made from"
                f" (privacy.minimum_windows): {remedy}"
            )
    buffered = read_rows(settings.paths.buffer, columns, newest=max(most, settings.privacy.snapshot_windows))
    if not len(buffered) and fingerprint_of(settings.paths.buffer):
        raise NotReadyError(
            "the buffered windows have other columns than the release; install one made for them"
        )
    scale = read_scale(settings.paths.standardiser, columns)
    rows = account.take_snapshot(content_of(columns, scale), buffered)
    needed = max(settings.fewest_windows, invitation.minimum_windows)
    if len(rows) < needed:
        raise NotReadyError(
            f"the snapshot that this device answers from holds {len(rows)} windows, {needed} are needed for run {invitation.run_id}"
        )
    return rows


def _as_judged(settings: Settings, columns: FeatureSpec, kept: BufferedRows) -> Healthy | None:
    """The rows as this device's detector sees them, in the sensors' own units; None where no scale of these columns is known."""
    from edge_agent.detection_memory import read_scale
    from edge_agent.detector_file import read_context
    from edge_agent.live_context import as_seen
    from models.sensors import SensorView

    scale = read_scale(settings.paths.standardiser, columns)
    if scale is None:
        return None
    try:
        content = settings.paths.detector.read_bytes()
    except OSError:  # there is none, as where a network judges
        content = b""
    context = read_context(content, columns.fingerprint, columns.feature_count)
    return as_seen(kept, SensorView(columns).scale_of(scale)[1], context)


def _dismiss(stop: threading.Event, _number: int, _frame: FrameType | None) -> None:
    if not stop.is_set():
        stop.set()
        raise _DismissedError


def _end(code: int, words: str) -> int:
    print(words, file=sys.stderr)  # noqa: T201 - the one line the agent passes on
    return code


if __name__ == "__main__":
    sys.exit(main())
