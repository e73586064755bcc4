"""Every setting of each program with two valid values, and every setting of a family with one that is not its default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from source_settings import SOURCE_LISTS, SOURCES

from aggregator.settings import PREFIX as AGGREGATOR_PREFIX
from aggregator.settings import Settings as AggregatorSettings
from aggregator.settings import load_aggregator_settings
from edge_agent.settings import PREFIX as AGENT_PREFIX
from edge_agent.settings import Settings as AgentSettings
from edge_agent.settings import load_agent_settings
from fleet.settings import PREFIX as FLEET_PREFIX
from fleet.settings import Settings as FleetSettings
from fleet.settings import load_fleet_settings

Load = Callable[[Path, Mapping[str, str]], msgspec.Struct]


@dataclass(frozen=True)
class Program:
    """A program's settings: the struct, what loads it, and for each key two values that go with all the others.

    `tags` says which of several tables stands where there is a choice, e.g. ``source.kind``. `lists` is TOML of the tables in lists,
    which come by the file alone.
    """

    kind: type[msgspec.Struct]
    prefix: str
    load: Load
    values: dict[str, tuple[Any, Any]]
    tags: dict[str, str] = field(default_factory=dict)
    lists: str = ""


AGENT: dict[str, tuple[Any, Any]] = {
    "state_dir": ("a", "/b"),
    "tenant": ("a", "b"),
    "family": ("a", "b"),
    "hardware": ("a", "b"),
    "trust.root": ("a.json", "/b.json"),
    "device": ("a", "b"),
    "labels": ({"site": "a"}, {"site": "b"}),
    "identity.module": ("/a.so", "/b.so"),
    "identity.token": ("a", "b"),
    "identity.key": ("a", "b"),
    "identity.pin_file": ("a", "b"),
    "fleet.url": ("https://a", "https://b:1"),
    "fleet.ca_file": ("a.pem", "b.pem"),
    "fleet.claim_token_file": ("a", "b"),
    "fleet.poll_s": (1.5, 2),
    "mqtt.url": ("mqtts://a", "mqtt://127.0.0.1:1"),
    "mqtt.ca_file": ("a.pem", "b.pem"),
    "mqtt.keepalive_s": (2, 1200),
    "mqtt.reconnect_max_s": (0.5, 2),
    "flower.ca_file": ("a.pem", "b.pem"),
    "flower.aggregator_key": (["a.pem"], ["b.pem", "/c.pem"]),
    "flower.host": ("a", "b.example"),
    "detection.commissioning_windows": (20, 100_000),
    "detection.commissioning_longest_windows": (20, 1_000_000),
    "detection.period_s": (0.5, 86_400),
    "detection.opens_after_windows": (1, 100),
    "detection.closes_after_windows": (1, 7),
    "detection.closes_below_share": (0.1, 1),
    "detection.personal_threshold": (True, False),
    "detection.reference_windows": (20, 100_000),
    "detection.drift_run_length": (100.0, 200.5),
    "detection.blind_after_windows": (5, 40),
    "detection.sight_probes_per_minute": (2.5, 60.0),
    "detection.budget.alarms_per_1000_windows": (0.01, 100),
    "detection.budget.windows_in_alarm": (1, 1000),
    "detection.budget.shortest_event_windows": (1, 2),
    "inference.delegate": ("gpu", "edgetpu"),
    "inference.library": ("a.so", "/b.so"),
    "outbox.maximum_bytes": (65_536, 70_000),
    "outbox.maximum_age_s": (1.5, 2),
    "outbox.resend_s": (1.5, 2),
    "outbox.in_flight": (1, 1000),
    "buffer.maximum_bytes": (65_536, 70_000),
    "buffer.set_aside_bytes": (65_536, 70_000),
    "installation.maximum_temperature_c": (0, 150),
    "installation.require_power": (False, True),
    "installation.bytes_per_day": (1, 2),
    "learner.enabled": (True, False),
    "learner.minimum_windows": (1, 2),
    "learner.runtime": ("litert", "torch"),
    "learner.maximum_temperature_c": (0, 150),
    "learner.require_power": (False, True),
    "learner.maximum_examples": (1, 2),
    "learner.plain_answers": (False, True),
    "learner.minimum_cohort": (3, 16_384),
    "learner.split_view_safe": (True, False),
    "learner.requires_confirmation": (False, True),
    "privacy.maximum_participations": (1, 2),
    "privacy.maximum_epsilon": (0.5, 2),
    "privacy.delta": (1e-9, 0.01),
    "privacy.require_noise": (False, True),
    "privacy.send_windows": (True, False),
    "privacy.minimum_noise_multiplier": (0.1, 4),
    "privacy.colluding_share": (0, 0.9),
    "privacy.minimum_windows": (5, 64),
    "privacy.answers_per_day": (1, 100),
    "privacy.attempts_per_reveal": (1, 5),
    "privacy.fits_per_snapshot": (1, 20),
    "privacy.fixed_companions": (True, False),
    "privacy.maximum_trust_radius": (0.05, 2),
    "privacy.fewest_exchanged": (1, 16_384),
    "privacy.renewed_share": (0.1, 1),
    "privacy.snapshot_windows": (1, 512),
    "privacy.snapshot_every_s": (0.5, 604_800),
    "health.every_s": (1.5, 2),
    "health.status_every_s": (0.1, 2),
    "remote.commands": (["diagnose"], ["recommission", "reactivate"]),
    "remote.afresh": (False, True),
    "remote.settings": ([], ["health.every_s"]),
    "debug.score_log": (False, True),
}
AGENTS = {
    f"agent, {kind}": Program(
        AgentSettings,
        AGENT_PREFIX,
        load_agent_settings,
        {**AGENT, **values},
        {"source.kind": kind},
        SOURCE_LISTS.get(kind, ""),
    )
    for kind, values in SOURCES.items()
}
FLEET: dict[str, tuple[Any, Any]] = {
    "listen": ("127.0.0.1:1", "0.0.0.0:2"),
    "tls_cert": ("a.pem", "/b.pem"),
    "tls_key": ("a.key", "/b.key"),
    "data_dir": ("a", "/b"),
    "database_url": ("sqlite:////a", "postgresql+psycopg://b"),
    "tenant": ("a", "b"),
    "mqtt.url": ("mqtt://127.0.0.1:1", "mqtts://broker.example"),
    "mqtt.ca_file": ("a.pem", "b.pem"),
    "mqtt.tls_cert": ("a.pem", "b.pem"),
    "mqtt.tls_key": ("a.key", "b.key"),
    "mqtt.reconnect_s": (1.0, 2),
    "mqtt.shut_out_file": ("a", "b"),
    "mqtt.batch_events": (1, 2),
    "mqtt.batch_wait_s": (0.5, 1),
    "mqtt.queued_events": (1000, 2000),
    "mqtt.device_events_per_s": (0.5, 20),
    "mqtt.device_burst_events": (1, 2),
    "mqtt.device_bytes_per_s": (0.5, 20),
    "mqtt.device_burst_bytes": (131_072, 262_144),
    "enrolment.certificate_lifetime_s": (60.5, 86400),
    "aggregator.url": ("https://a", "https://b:1"),
    "aggregator.ca_file": ("a.pem", "/b.pem"),
    "aggregator.token_file": ("a", "/b"),
    "dashboard.public_url": ("https://fleet.example.org", "http://10.0.0.1:8443"),
    "maximum_bundle_bytes": (1, 2),
    "offline_after_s": (1.5, 2),
    **{
        f"retention.{name}": (86_400.5, 90_000)
        for name in (
            *("health_s", "fine_blocks_s", "blocks_s", "anomalies_s", "drift_s"),
            *("installs_s", "commands_s", "timelines_s", "rollouts_s", "alerts_s"),
        )
    },
    "approved_families": (["pump"], ["*"]),
    **{
        f"alerts.{name}": (600.5, 1200)
        for name in (
            *("group_wait_s", "group_gap_s", "group_longest_s", "resolve_after_s"),
            *("silent_after_s", "quiet_after_s", "remind_every_s"),
        )
    },
}
FLEETS = {
    "fleet": Program(
        FleetSettings,
        FLEET_PREFIX,
        load_fleet_settings,
        FLEET,
        {"mqtt.shut_out": "file"},
        lists='[[alerts.receivers]]\nname = "a"\ntype = "webhook"\nurl = "https://a"\n',
    ),
    # What goes with PostgreSQL alone.
    "fleet, of several replicas": Program(
        FleetSettings,
        FLEET_PREFIX,
        load_fleet_settings,
        {k: v for k, v in FLEET.items() if k != "database_url"} | {"mqtt.shared": (True, False)},
        {"mqtt.shut_out": "file", "database_url": "postgresql+psycopg://b"},
    ),
    # What goes with no shut_out_file.
    "fleet, shut out by command": Program(
        FleetSettings,
        FLEET_PREFIX,
        load_fleet_settings,
        {k: v for k, v in FLEET.items() if k != "mqtt.shut_out_file"}
        | {"mqtt.shut_out": ("none", "dynamic-security")},
    ),
}
PROGRAMS = (
    AGENTS
    | FLEETS
    | {
        "aggregator": Program(
            AggregatorSettings,
            AGGREGATOR_PREFIX,
            load_aggregator_settings,
            {
                "listen": ("127.0.0.1:1", "0.0.0.0:2"),
                "flower_listen": ("127.0.0.1:1", "0.0.0.0:2"),
                "flower_public_address": ("a:1", "b.example:2"),
                "tls_cert": ("a.pem", "/b.pem"),
                "tls_key": ("a.key", "/b.key"),
                "data_dir": ("a", "/b"),
                "tenant": ("a", "b"),
                "signing_key": ("a.key", "/b.key"),
                "release_keys": (["a.pem"], ["b.pem", "/c.pem"]),
                "families_dir": ("a", "/b"),
                "watch_every_s": (0.5, 2),
                "publish_patience_s": (0.5, 2),
                "fleet.url": ("https://a", "https://b:1"),
                "fleet.ca_file": ("a.pem", "/b.pem"),
                "fleet.token_file": ("a", "/b"),
                "fleet.timeout_s": (0.5, 2),
                "mqtt.url": ("mqtt://127.0.0.1:1", "mqtts://broker.example"),
                "mqtt.ca_file": ("a.pem", "/b.pem"),
                "mqtt.tls_cert": ("a.pem", "/b.pem"),
                "mqtt.tls_key": ("a.key", "/b.key"),
                "mqtt.reconnect_s": (1.0, 2),
            },
            lists='[[family]]\nname = "a"\n',
        ),
    }
)
REPEATED = {
    *(("agent, " + kind, key) for kind in SOURCES if kind != "simulated" for key in AGENT),
    *(("fleet, shut out by command", key) for key in FLEET),
}
"""What another entry of the same program has shown already."""
FAMILY: dict[str, Any] = {
    "name": "b",
    "detector": "mixture",
    "training.epochs": 7,
    "training.batch_size": 7,
    "training.learning_rate": 0.7,
    "training.optimizer": "adam",
    "training.momentum": 0.7,
    "training.proximal": 0.7,
    "training.gradient_clip": 0.7,
    "training.trust_radius": 0.7,
    "training.update_norm": 0.11,
    "training.maximum_examples": 7,
    "training.example_privacy.clip_norm": 0.7,
    "training.example_privacy.noise_multiplier": 0.7,
    "training.example_privacy.sampling_rate": 0.7,
    "training.example_privacy.steps": 7,
    "training.maximum_staleness": 7,
    "training.staleness_exponent": 0.7,
    "rounds.count": 7,
    "rounds.attempts": 7,
    "rounds.deadline_s": 7.5,
    "rounds.minimum_windows": 7,
    "rounds.join_timeout_s": 7.5,
    "rounds.join_settle_s": 7.5,
    "rounds.join_spread_s": 7.5,
    "rounds.server_optimizer": "fedadam",
    "rounds.server_learning_rate": 0.7,
    "cohort.fraction": 0.7,
    "cohort.over_selection": 1.7,
    "cohort.minimum_devices": 7,
    "cohort.group_devices": 7,
    "cohort.sampling": "poisson",
    "secure_sum.enabled": False,
    "secure_sum.stage_deadline_s": 7.5,
    "secure_sum.grace_s": 0.0,
    "secure_sum.corrupt_fraction": 0.07,
    "secure_sum.dropout_fraction": 0.07,
    "secure_sum.split_view_safe": False,
    "secure_sum.requires_confirmation": True,
    "privacy.noise.noise_multiplier": 0.7,
    "privacy.noise.assessment_noise_multiplier": 0.7,
    "privacy.noise.clip": 0.7,
    "privacy.noise.adaptive_clip": True,
    "privacy.noise.clip_quantile": 0.7,
    "privacy.noise.bits": 17,
    "privacy.noise.mechanism": "skellam",
    "privacy.noise.colluders": 1,
    "privacy.budget.delta": 0.007,
    "privacy.budget.epsilon_server": 7.5,
    "privacy.budget.epsilon_release": 7.5,
    "privacy.budget.maximum_participations": 7,
    "gate.minimum_improvement": -0.7,
    "gate.maximum_alarm_rate": 0.7,
    "gate.maximum_int8_error": 0.7,
    "gate.judging_share": 0.7,
    "threshold.quantile": 0.7,
    "threshold.margin": 0.7,
    "threshold.personal_minimum": 0.7,
    "int8.weight_scales": "per-tensor",
    "int8.edge_tpu": True,
    "int8.prune_silent_units": True,
    "trigger.drift_share": 0.7,
    "trigger.precision_drift": True,
    "trigger.within_s": 7.5,
    "trigger.cooldown_s": 0,
    "trigger.schedule_every_s": 7.5,
    "rollout": {"target_query": "site==a"},
}
NEEDED_BESIDE: dict[str, dict[str, Any]] = {
    "cohort.sampling": {"privacy.noise.noise_multiplier": 0.7},
    "training.example_privacy.": {
        "training.example_privacy.noise_multiplier": 1.0,
        "training.example_privacy.sampling_rate": 0.1,
        "training.example_privacy.steps": 10,
    },
    "privacy.noise.": {"privacy.noise.noise_multiplier": 0.1},
    "privacy.budget.epsilon": {"privacy.noise.noise_multiplier": 1.0},
    "int8.edge_tpu": {"int8.weight_scales": "per-tensor"},
}
"""By the beginning of a key: what makes it valid."""
