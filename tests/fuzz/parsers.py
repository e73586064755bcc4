"""Every function of ours that reads what another machine, a person or a file says: what it is fed from, and what it may raise.

A new one that is not here is found by `test_fuzz`. Samples are what our own writers write.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Final

from fed_parser import Parser, document, fed, in_file, text
from protocol_parsers import PROTOCOL_PARSERS
from samples import (
    AGENT_TOML,
    ANNOTATED,
    CSV,
    ENROLMENT,
    FILES,
    FLEET_TOML,
    GOLDEN,
    JSON_LINES,
    LABVIEW,
    LONG,
    NAMES,
    NPZ,
    RELEASE,
    RELEASE_KEY,
    ROOT,
    TRUSTED,
    TUF,
    WAV,
    csr,
    signed_anew,
)
from tuf.api.metadata import Targets

from aggregator.errors import AggregatorError
from aggregator.release_listing import read_list
from aggregator.rounds.champion import read_champion
from edge_agent import update_trust_client
from edge_agent.errors import EdgeAgentError
from edge_agent.installation.verification import verify
from edge_agent.settings import Settings as AgentSettings
from fleet import device_query
from fleet.alert_settings import check_url
from fleet.certificate_requests import requested_key
from fleet.errors import FleetError
from fleet.flashing.board_facts import read_facts
from fleet.rollouts.plans import EXAMPLE_PLAN, RolloutPlan
from fleet.rollouts.windows import check_time_zone
from fleet.settings import Settings as FleetSettings
from fleet.storage.addresses import parsed_address
from fleet.trust.metadata import read_metadata
from fleet.trust.published import split_name
from models.detection.prior import decode_prior
from models.errors import ModelError
from models.recordings.csv import read_csv
from models.recordings.npz import read_table, read_tables
from models.recordings.reading import read_machines
from protocol.enrolment import CertificateQuestion, EnrolmentQuestion
from protocol.messages.commands import CommandResult
from runtime.errors import FedgeError, SettingsError
from runtime.settings import load_settings
from service import mqtt_packets, paging
from service.addresses import split_endpoint
from service.durations import read_duration, read_past
from service.errors import InvalidBodyError, InvalidQueryError, ServiceError

__all__ = ["PARSERS"]


def _believed(content: bytes) -> object:
    """A repository of which one file is the one that came."""
    return update_trust_client.believe(
        ROOT,
        "motor",
        lambda name, most: content[:most] if name == "timestamp.json" else FILES.get(name),
        now_s=time.time(),
    )


def _packets(content: bytes) -> list[object]:
    """What a broker sent, cut and read as the client does."""
    cut = mqtt_packets.PacketReader(1 << 20).feed(content)
    return [
        mqtt_packets.read_publish(head, body) if head >> 4 == 3 else mqtt_packets.read_identifier(body)
        for head, body in cut
    ]


PARSERS: Final[tuple[Parser, ...]] = (
    *PROTOCOL_PARSERS,
    fed(
        "bundle, champion",
        lambda c: read_champion(c, TRUSTED),
        [RELEASE],
        (AggregatorError,),
        "aggregator.rounds.champion.read_champion",
        own=(signed_anew,),
    ),
    fed(
        "bundle, on a device",
        lambda c: verify(c, hashlib.sha256(c).hexdigest()),
        [RELEASE],
        (EdgeAgentError,),
        "edge_agent.installation.verification.verify",
        "protocol.bundle.open_listed",
        own=(signed_anew,),
    ),
    fed(
        "prior",
        decode_prior,
        [b'{"features":1,"devices":3}'],
        (ModelError,),
        "models.detection.prior.decode_prior",
    ),
    fed("enrolment", document(EnrolmentQuestion), [ENROLMENT], (InvalidBodyError,)),
    fed(
        "certificate wanted",
        document(CertificateQuestion),
        [json.dumps({"certificate_request": csr().decode(), "signature": "c2lnbmVk"}).encode()],
        (InvalidBodyError,),
    ),
    fed(
        "command's result",
        document(CommandResult),
        [(GOLDEN / "result.v1.json").read_bytes()],
        (InvalidBodyError,),
    ),
    fed(
        "packets of MQTT",
        _packets,
        [
            mqtt_packets.publish(b"fedge/v1/demo/press-1/health", b"{}", identifier=7),
            mqtt_packets.puback([1, 2]),
        ],
        (mqtt_packets.PacketError,),
        "service.mqtt_packets.read_identifier",
    ),
    fed(
        "time zone",
        text(check_time_zone),
        [b"Europe/Berlin", b"UTC"],
        (ValueError,),
        "fleet.rollouts.windows.check_time_zone",
    ),
    fed("plan", document(RolloutPlan), [json.dumps(EXAMPLE_PLAN).encode()], (InvalidBodyError,)),
    fed(
        "certificate request",
        text(lambda t: requested_key(t, "press-1")),
        [csr()],
        (FleetError,),
        "fleet.certificate_requests.requested_key",
    ),
    fed(
        "device query",
        text(device_query.device_filter),
        [
            b"hardware=in=(rpi4,rpi5) and site!=lab",
            b"agent_state==blind or (sight=lt=0.5;missing==*)",
            b'"a b"=="\\""',
        ],
        (FleetError,),
        "fleet.device_query.device_filter",
    ),
    fed(
        "cursor",
        text(paging.decode_cursor),
        [paging.encode_cursor("press-1").encode()],
        (InvalidQueryError,),
        "service.paging.decode_cursor",
    ),
    fed(
        "row cursor",
        text(paging.decode_row_cursor),
        [paging.encode_cursor(17).encode()],
        (InvalidQueryError,),
        "service.paging.decode_row_cursor",
    ),
    fed(
        "signed metadata",
        lambda c: read_metadata(c, Targets, "x"),
        TUF,
        (FleetError,),
        "fleet.trust.metadata.read_metadata",
    ),
    fed("metadata name", text(split_name), NAMES, (FedgeError,), "fleet.trust.published.split_name"),
    fed(
        "root",
        update_trust_client.check_root,
        TUF,
        (EdgeAgentError,),
        "edge_agent.update_trust_client.check_root",
    ),
    fed("repository", _believed, TUF, (EdgeAgentError,), "edge_agent.update_trust_client.believe"),
    fed(
        "release list",
        lambda c: read_list(c, [RELEASE_KEY.public_key()]),
        TUF,
        (AggregatorError,),
        "aggregator.release_listing.read_list",
    ),
    fed("NPZ", in_file(".npz", lambda p: read_table(p, key="rows")), [NPZ], (ModelError,)),
    fed("NPZ, all", in_file(".npz", read_tables), [NPZ], (ModelError,)),
    fed("CSV", in_file(".csv", read_csv), [CSV, CSV.replace(b",", b";")], (ModelError,)),
    fed(
        "what people have",
        in_file(".csv", lambda p: read_machines([p])),
        [
            CSV,
            CSV.replace(b",", b";").replace(b".", b","),
            LONG,
            CSV.decode().encode("utf-16"),
            JSON_LINES,
            LABVIEW,
            ANNOTATED,
        ],
        (ModelError,),
        "models.recordings.grid.split",
    ),
    fed("what people have, NPZ", in_file(".npz", lambda p: read_machines([p])), [NPZ], (ModelError,)),
    fed("what people have, WAV", in_file(".wav", lambda p: read_machines([p])), [WAV], (ModelError,)),
    fed(
        "agent.toml",
        in_file(".toml", lambda p: load_settings(p, AgentSettings, prefix="X_", environment={})),
        [AGENT_TOML],
        (SettingsError,),
    ),
    fed(
        "fleet.toml",
        in_file(".toml", lambda p: load_settings(p, FleetSettings, prefix="X_", environment={})),
        [FLEET_TOML],
        (SettingsError,),
    ),
    fed(
        "address",
        text(split_endpoint),
        [b"127.0.0.1:8443", b"[::1]:1"],
        (ValueError,),
        "service.addresses.split_endpoint",
    ),
    fed(
        "alert-address",
        text(lambda said: check_url(said, "url")),
        [b"https://alerts.example.org/hook", b"http://127.0.0.1:9095/x"],
        (ValueError,),
        "fleet.alert_settings.check_url",
    ),
    fed(
        "duration", text(read_duration), [b"90d", b"24h"], (ServiceError,), "service.durations.read_duration"
    ),
    fed(
        "moment",
        text(read_past),
        [b"2h", b"2026-11-30T09:00+01:00", b"1780000000"],
        (SettingsError,),
        "service.durations.read_past",
    ),
    fed(
        "address of a database",
        text(parsed_address),
        [
            b"postgresql://fedge:secret@host:5432/fleet?sslmode=require",
            b"sqlite:////var/lib/fedge/fleet.sqlite",
        ],
        (SettingsError,),
        "fleet.storage.addresses.parsed_address",
    ),
    fed(
        "answers of a board",
        text(read_facts),
        [
            b"machine aarch64\nhome /home/pi\nuser pi\nnow 1764547200\nrights sudo\nsystemd yes\nfree /opt 1048576\n",
            b"machine x86_64\nhome /root\nuser root\nnow 1\nrights root\npython 3.11 /usr/bin/python3.11 yes\n",
        ],
        (SettingsError,),
        "fleet.flashing.board_facts.read_facts",
    ),
)
"""Each of them."""
