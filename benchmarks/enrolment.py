"""How many devices a minute a real fleet lets in over TLS, on either database. One JSON object per figure.

    python benchmarks/enrolment.py [--devices 1000] [--at-once 4] [--databases sqlite postgresql]

Each device makes a TLS connection of its own, shows a claim of its own, and gets its certificate: one that a broker with the
device CA would take, which is checked for every one of them. What a device does beforehand (two keys, a request, a signature)
is done beforehand: a thousand devices have a thousand processors for it. The clients share the machine with the fleet. Then
each renews its certificate, by its bearer token, over another connection.

The SQLite file is on the disk of the temporary folder and survives a power cut; PostgreSQL is a private server without fsync.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fleet")]

from databases import PostgresqlDatabases, SqliteDatabases, postgresql_server  # noqa: E402 - needs the path above
from fleet_world import TENANT, Machine, fleet_process, make_claims, make_trust  # noqa: E402 - as above
from mosquitto_broker import LocalCertificates  # noqa: E402 - as above

from fleet.migrations.upgrade import open_storage  # noqa: E402 - as above

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a device sends, made beforehand; and to whom the answered certificate must be."""

    device: str
    path: str
    token: str
    body: dict[str, Any]


def tell(database: str, figure: str, value: float, unit: str) -> None:
    """Print one figure."""
    print(
        json.dumps({"database": database, "figure": figure, "value": round(value, 4), "unit": unit}),
        flush=True,
    )


@contextmanager
def database_url(kind: str, folder: Path) -> Iterator[str]:
    """An empty database of this kind."""
    if kind == "sqlite":
        with SqliteDatabases(folder).fresh() as url:
            yield url
        return
    with postgresql_server() as socket, PostgresqlDatabases(socket).fresh() as url:
        yield url


def processor_s(pid: int) -> float:
    """Seconds of processor that a process has used; proc(5), fields 14 and 15 of stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def ask(url: str, context: ssl.SSLContext, call: Call) -> float:
    """Seconds from the first packet of a connection of its own to the certificate, which is checked."""
    started = time.perf_counter()
    with httpx.Client(base_url=url, verify=context, timeout=60) as http:
        answer = http.post(call.path, json=call.body, headers={"Authorization": f"Bearer {call.token}"})
    took = time.perf_counter() - started
    answer.raise_for_status()
    leaf, authority = x509.load_pem_x509_certificates(answer.json()["certificate"].encode())
    leaf.verify_directly_issued_by(authority)
    assert leaf.subject.rfc4514_string() == f"CN={call.device}"
    return took


def measure(kind: str, devices: int, at_once: int, folder: Path) -> None:
    """Print the figures of one database."""
    certificates = LocalCertificates(folder / "pki")
    make_trust(folder / "data")
    context = ssl.create_default_context(cafile=str(certificates.ca_file))
    machines = [Machine(name=f"device-{number:05}") for number in range(devices)]
    with database_url(kind, folder) as address:
        database = open_storage(address)
        claims = make_claims(database, devices, now=time.time())
        database.close()
        config = folder / "fleet.toml"
        config.write_text(
            f'listen = "127.0.0.1:0"\ndata_dir = "data"\ntenant = "{TENANT}"\ndatabase_url = "{address}"\n'
            'tls_cert = "pki/server.pem"\ntls_key = "pki/server.key"\n'
        )
        enrolments = [
            Call(device=one.name, path="/v1/enrolments", token=claim, body=one.enrolment())
            for one, claim in zip(machines, claims, strict=True)
        ]
        with fleet_process(config, folder / "fleet.log") as (process, url):

            def run(name: str, calls: Sequence[Call]) -> None:
                used, started = processor_s(process.pid), time.perf_counter()
                with ThreadPoolExecutor(at_once) as pool:
                    took = list(pool.map(lambda call: ask(url, context, call), calls))
                seconds = time.perf_counter() - started
                tell(kind, f"{name}_per_minute", 60 * len(calls) / seconds, "1/min")
                tell(kind, f"{name}_median_s", statistics.median(took), "s")
                tell(kind, f"{name}_slowest_s", max(took), "s")
                tell(
                    kind, f"{name}_processor_ms", 1000 * (processor_s(process.pid) - used) / len(calls), "ms"
                )

            run("enrolments", enrolments)
            renewals = [
                Call(
                    device=one.name,
                    path="/v1/device/certificate",
                    token=one.token(time.time()),
                    body=one.question(),
                )
                for one in machines
            ]
            run("renewals", renewals)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Enrolments a minute")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    options = parser.parse_args()
    for kind in options.databases:
        with tempfile.TemporaryDirectory() as folder:
            measure(kind, options.devices, options.at_once, Path(folder))


if __name__ == "__main__":
    main()
