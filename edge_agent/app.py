"""Builds the agent from its settings and runs it: the only place that reads the configuration and makes adapters.

Imports are kept to what a resident agent needs (no typer, rich, httpx, asyncio); `edge_agent.cli` leads here without
importing anything of theirs.
"""

from __future__ import annotations

import logging
import os
import platform
import random
import secrets
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from edge_agent.agent import Agent
from edge_agent.agent_ports import Clocks, Hands
from edge_agent.aggregator_trust import distrust
from edge_agent.boot_number import next_boot_number
from edge_agent.counted_bundles import CountedBundles
from edge_agent.delegate_choice import ChildTrial, DelegateChoice, ProbeWithDelegate
from edge_agent.detection_memory import DetectionMemory
from edge_agent.enrolled import Enrolled, check_settings, load_enrolled
from edge_agent.errors import RestartNeededError
from edge_agent.fetch_conditions import FetchConditions
from edge_agent.fleet_roads import (
    keep_certificate,
    open_client,
    open_link,
    open_repository,
    open_roads,
    open_seals,
)
from edge_agent.fleet_words import FleetWords
from edge_agent.health import Counters, Interval, LatencyReservoir, Vitals, headline
from edge_agent.identity_key import open_identity
from edge_agent.installation.acceptance import Requirements
from edge_agent.installation.assembly import open_installer
from edge_agent.installation.installer import Installer
from edge_agent.installation.probe import ChildProbe
from edge_agent.kept_rows import open_stores
from edge_agent.learner_supervisor import LearnerSupervisor, end_orphan, start_learner
from edge_agent.loop_watch import LoopWatch, arm_process_guard, hang_limit_s, supervisor_of
from edge_agent.outbox import Outbox
from edge_agent.outbox_entry import moment_of
from edge_agent.outbox_owner import owner_of
from edge_agent.outdated_state import set_outdated_aside
from edge_agent.pipeline import Pipeline
from edge_agent.process_sight import ThisProcess, announce_start, started_ticks
from edge_agent.readiness import Device, read_conditions, refusal
from edge_agent.remote.assembly import make_executor
from edge_agent.remote.diagnosis import Diagnosis
from edge_agent.remote.fleet_settings import SettingsInForce
from edge_agent.remote.journal import CommandFile
from edge_agent.remote.log_ring import LogRing
from edge_agent.reporting import StatusReporter
from edge_agent.sample_buffer import SampleBuffer
from edge_agent.score_log import ScoreLog
from edge_agent.settings import Settings, load_agent_settings
from edge_agent.source_host import open_for_loop
from edge_agent.sources.port import Source
from edge_agent.status import load_counters
from edge_agent.stop_signals import StopSignals
from edge_agent.telemetry import Identity, Telemetry
from edge_agent.trusted_clock import TrustedClock
from edge_agent.update_trust import UpdateTrust, open_trust
from edge_agent.version import AGENT_VERSION
from protocol.messages.kinds import InstallStep
from protocol.messages.payloads import Birth
from runtime.bounded_logs import log_to_stderr
from runtime.durable_files import private_directory
from runtime.errors import FedgeError

__all__ = ["RESTART_NEEDED", "run"]

log = logging.getLogger(__name__)

RESTART_NEEDED: Final = 75
"""The exit status for "start me again" (EX_TEMPFAIL of sysexits.h); a supervisor starts after any other, too."""


def run(config_file: Path) -> int:
    """Run the agent until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 after a clean stop, 2 where the configuration or state directory cannot be used, 75 where only
        another process can go on, which the supervisor starts; one line on stderr says why.
    """
    bounded = log_to_stderr("%(asctime)s %(levelname)s %(message)s")
    # First of all, so that no child inherits what is meant for this process, and no step of the start goes unwatched.
    supervisor = supervisor_of(os.environ, os.getpid())
    ring = LogRing()
    ring.addFilter(bounded)
    logging.getLogger().addHandler(ring)
    try:
        settings = load_agent_settings(config_file)
        limit_s = hang_limit_s(settings.detection.reference_windows)
        watch = LoopWatch(supervisor, arm_process_guard, time.monotonic, limit_s)
        watch.starting("opening source and state")
        # Before anything is built: building may try a delegate for seconds, and must not die half way through.
        signals = StopSignals()
        with ExitStack() as stack:
            agent = _build(settings, load_enrolled(settings.paths.enrolment), ring, watch, stack)
            signals.hand_to(agent)
            log.info("agent_started pid=%d version=%s", os.getpid(), AGENT_VERSION)
            agent.run()
            watch.stopping()
    except RestartNeededError:
        return RESTART_NEEDED  # the loop has said why
    except FedgeError as error:
        log.error("agent_not_started error=%s", error)  # noqa: TRY400 - one line for a person, no traceback
        return 2
    log.info("agent_stopped")
    return 0


def _build(
    settings: Settings, enrolled: Enrolled, ring: LogRing, watch: LoopWatch, stack: ExitStack
) -> Agent:
    paths = settings.paths
    private_directory(settings.state_dir)
    clock = TrustedClock(paths.clock)
    process = ThisProcess(pid=os.getpid(), started_ticks=started_ticks(os.getpid()), clock=clock)
    check_settings(settings, enrolled)
    waking = threading.Event()
    source = open_for_loop(settings.source, paths.source, time.monotonic, waking.set)
    stack.callback(source.close)
    counters = load_counters(paths.counters)
    key = open_identity(settings)
    fleet = open_client(settings, enrolled.device, key, clock)
    choice = DelegateChoice(settings.inference.delegate, settings.inference.library, ChildTrial())
    fetching = FetchConditions(settings.installation, lambda: counters.update_bytes, clock.boot_s)
    trust = open_trust(settings, clock, None if fleet is None else fleet.trust_file)
    installer = _installer(settings, source, CountedBundles(fleet, counters), trust, fetching, choice)
    stack.callback(installer.close)
    announce_start(paths.status, process)  # not before: another agent may have the directory
    if (active := installer.active()) is not None:
        watch.starting("trying what runs the model")
        choice.prepare(active.bundle)
        watch.starting("opening the outbox")
    outdated = set_outdated_aside(paths, source.spec)
    stores = open_stores(paths, source.spec, settings.buffer)
    stack.callback(stores.close)
    outbox = Outbox.open(
        paths.outbox,
        settings.outbox,
        now=moment_of(clock),
        owner=owner_of(paths.device_key, enrolled),
        withholds_windows=not settings.privacy.send_windows,
    )
    stack.callback(outbox.close)
    identity = Identity.of(
        enrolled,
        settings.family,
        boot_id=secrets.token_hex(8),
        boot_number=next_boot_number(paths.boot, outbox, counters.starts),
    )
    link = open_link(settings, identity, waking.set, clock.wall_s(), stack)
    certificate = keep_certificate(settings, enrolled, fleet, clock, link, stack)
    roads = open_roads(fleet, settings, link, open_repository(fleet, trust, installer, stack), waking, stack)
    commands = CommandFile(paths.commands)
    in_force = SettingsInForce(settings, commands.journal.settings, commands.journal.unmet)
    pipeline = Pipeline(
        source.spec,
        in_force.effective.detection,
        memory=DetectionMemory(paths, source.spec),
        stores=stores,
        clock=time.perf_counter,
        wall=clock.wall_s,
        open_model=choice.open,
    )
    if outdated:
        pipeline.commissioning.begin(outdated)
    if end_orphan(paths):
        log.info("the learner of an earlier start was ended")
    learner = LearnerSupervisor(
        paths,
        start=lambda: start_learner(settings.config_file, paths),
        distrust=distrust(settings),
        refusal=lambda invitation, _now_s: refusal(
            invitation,
            _offer(installer, stores.buffer),
            read_conditions(),
            settings.learner,
            minimum_windows=settings.fewest_windows,
        ),
        draw=random.random,
    )
    stack.callback(lambda: learner.close(clock.wall_s()))
    vitals = _vitals(counters, clock.wall_s(), settings.detection.blind_after_windows)
    clocks = Clocks(
        monotonic=time.monotonic,
        wall=clock.wall_s,
        wait=lambda s: _wait(waking, s),
        came_round=partial(watch.came_round, partial(headline, vitals)),
    )
    diagnosis = Diagnosis(settings, ring)
    executor = make_executor(
        settings,
        commands,
        in_force,
        pipeline=pipeline,
        installer=installer,
        diagnosis=diagnosis,
        outbox=outbox,
        clock=clock,
    )
    hands = Hands(installation=installer, learner=learner, executor=executor)
    telemetry = Telemetry(
        identity,
        outbox,
        link,
        counters,
        now=lambda: moment_of(clock),
        words=FleetWords(
            tenant=identity.tenant,
            device=identity.device,
            keys=trust.fleet_keys,
            earliest_s=clock.earliest_s,
            monotonic=time.monotonic,
            doubt=roads.doubt,
        ),
        sealing=open_seals(key, identity, waking, stack),
        roads=roads,
        certificate=certificate,
    )
    reporter = StatusReporter(
        settings,
        identity,
        process=process,
        outbox=outbox,
        buffer=stores.buffer,
        pipeline=pipeline,
        telemetry=telemetry,
        hands=hands,
        delegate=lambda: choice.running,
        repository=trust.words,
    )
    agent = Agent(
        birth=_birth(settings),
        source=source,
        pipeline=pipeline,
        telemetry=telemetry,
        hands=hands,
        reporter=reporter,
        vitals=vitals,
        score_log=ScoreLog(paths.score_log) if settings.debug.score_log else None,
        clocks=clocks,
    )
    installer.start(wake=waking.set)
    return agent


def _vitals(counters: Counters, wall_s: float, blind_after_windows: int) -> Vitals:
    started_s = time.monotonic()
    return Vitals(
        counters=counters,
        latencies=LatencyReservoir(random.Random()),  # noqa: S311 - which latencies are kept is no secret
        started_clock_s=started_s,
        started_wall_s=wall_s,
        interval=Interval(started_s=started_s),
        blind_after_windows=blind_after_windows,
    )


def _wait(waking: threading.Event, timeout_s: float) -> bool:
    was_woken = waking.wait(timeout_s)
    if was_woken:
        waking.clear()
    return was_woken


def _installer(
    settings: Settings,
    source: Source,
    bundles: CountedBundles,
    trust: UpdateTrust,
    fetching: FetchConditions,
    choice: DelegateChoice,
) -> Installer:
    paths = settings.paths
    return open_installer(
        journal_file=paths.install_journal,
        bundles=paths.bundles,
        trust=trust,
        requirements=Requirements(family=settings.family, features=source.spec),
        source=bundles,
        hindrance=fetching.hindrance,
        probe=ProbeWithDelegate(ChildProbe(), choice),
    )


def _offer(installer: Installer, buffer: SampleBuffer) -> Device:
    active = installer.active()
    return Device(
        layout_sha256=active.bundle.manifest.model.layout_sha256 if active is not None else None,
        buffered_windows=len(buffer),
        is_installing=installer.step() is not InstallStep.IDLE,
    )


def _birth(settings: Settings) -> Birth:
    return Birth(
        agent_version=AGENT_VERSION,
        hardware=settings.hardware,
        family=settings.family,
        runtime=f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        capabilities=(
            "detect",
            "install",
            *(("learn",) if settings.learner.enabled and settings.can_train else ()),
        ),
        labels=settings.labels,
    )
