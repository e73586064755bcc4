"""Join files as issue 17 wrote them first: a later agent opens them, and a later fleet writes what an earlier agent opens."""

from __future__ import annotations

from pathlib import Path

from protocol.join_file import JoinFile, open_join_file, write_join_file
from protocol.manifest import FeatureSpec

GOLDEN = Path(__file__).parent / "golden"
PASSPHRASE = "correct horse"


def seeded(count: int) -> bytes:
    return bytes(range(count))


def test_a_join_file_of_version_1_opens() -> None:
    join = open_join_file((GOLDEN / "join.v1.json").read_bytes(), None)
    assert (join.tenant, join.device, join.family, join.labels) == ("acme", "valve-1", "valve", {"line": "3"})
    assert (join.fleet_url, join.broker_url) == ("https://plant.example:8443", "mqtts://plant.example:8883")
    assert join.features == FeatureSpec(kind="passthrough", names=("Pressure", "Flow"), channels=2)
    assert (join.claim, join.claim_ends_s, join.row_every_s) == ("fc_abcdefgh", 1.8e9, 1.0)


def test_a_sealed_one_opens_to_its_passphrase_and_says_the_same() -> None:
    plain = open_join_file((GOLDEN / "join.v1.json").read_bytes(), None)
    assert open_join_file((GOLDEN / "join.sealed.v1.json").read_bytes(), PASSPHRASE) == plain


def test_what_is_written_today_are_the_same_bytes() -> None:
    join: JoinFile = open_join_file((GOLDEN / "join.v1.json").read_bytes(), None)
    assert write_join_file(join, None, seeded) == (GOLDEN / "join.v1.json").read_bytes()
    assert write_join_file(join, PASSPHRASE, seeded) == (GOLDEN / "join.sealed.v1.json").read_bytes()
