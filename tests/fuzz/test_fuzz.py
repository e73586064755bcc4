"""Whatever reads bytes from outside refuses what it cannot read, in its own words; and a new reader is fed too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
from fed_parser import Parser
from fuzzing import FoundError, feed
from parsers import PARSERS

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime", "protocol", "models", "service", "edge_agent", "aggregator", "fleet")
READS = re.compile(r"(decode|parse|read|open|load|peek|check|verify|split|token_subject|\w+_from_)")
"""How functions are called that make something of bytes; what they are given first is bytes or text."""

EXEMPT: Final[Mapping[str, str]] = {
    "models.delegates.open_with_delegate": "native code; a release's models are first run in a child process with limits (the probe)",
    "models.learning_runtimes.open_learning_model": "as above",
    "models.litert.load_model": "as above",
    "fleet.bridges.mlflow.open_mlflow": "makes a client of an address that its owner gave",
    "models.seal.check_seal": "looks at the last 40 bytes and their SHA-256",
    "models.export.edge_tpu.check_edge_tpu": "reads what our own converter made",
    "models.export.edge_tpu_compiler.read_report": "as above",
    "models.drift.state_file.decode_state": "the device's own disk, under a CRC; tests/edge_agent damages it",
    "edge_agent.detector_file.decode_detector": "the device's own disk; tests/edge_agent damages it",
    "edge_agent.detector_file.read_context": "as above",
    "fleet.trust.published.check_content": "what fleet.trust.metadata.read_metadata gave; reached by check_publication",
    "models.recordings.cells.split_line": "reached by read_csv",
    "models.recordings.cells.decoded": "reached by read_csv",
    "protocol.secure_sum.device_rules.check_sharers": "reads its bits with unpack_positions",
    "protocol.secure_sum.device_rules.check_survivors": "as above",
    "protocol.secure_sum.keys.key_pair_from_secret": "a secret of our own",
    "protocol.secure_sum.shamir.split": "splits a secret of our own",
    "fleet.api.commands.read_report": "an endpoint; a name that stands in a path",
    "fleet.api.trust.read_trust": "as above",
    "fleet.api.trust.read_list": "as above",
    "fleet.migrations.upgrade.open_storage": "the operator's own setting",
    "fleet.storage.base.open_database": "as above",
    "fleet.storage.connecting.check_connection": "as above; its address is read by parsed_address, which is fed",
    "fleet.backups.sealing.check_passphrase": "looks at its length",
    "fleet.ingest.report_seals.check_sealed_by": "check_seal, which is fed, with a key that the fleet stores",
    "fleet.rollouts.states.check_follows": "states of our own",
}
"""Functions that look like parsers, and why they are not fed here."""

SEED, TIMES = 20261130, 60


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_spoilt_input_is_refused_in_our_own_words(parser: Parser) -> None:
    feed(parser, SEED, TIMES)


def readers() -> Iterator[str]:
    """Public functions of ours that look as if they read what came from outside."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(file.read_text()).body:
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not READS.match(node.name):
                    continue
                first = node.args.args[0].annotation if node.args.args else None
                if first is not None and ast.unparse(first) in {"bytes", "str", "bytes | bytearray"}:
                    yield ".".join((*file.relative_to(ROOT).with_suffix("").parts, node.name))


def test_every_reader_is_fed_or_says_why_not() -> None:
    found, fed = set(readers()), {name for parser in PARSERS for name in parser.covers}
    assert len(found) > 30
    missing = found - fed - EXEMPT.keys()
    assert not missing, (
        f"add these to tests/fuzz/parsers.py, or here to EXEMPT with a reason: {sorted(missing)}"
    )
    assert not EXEMPT.keys() - found, f"exempt, and not there any more: {sorted(EXEMPT.keys() - found)}"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda content: content.decode("ascii"), "UnicodeDecodeError"),
        (lambda content: content[0], "IndexError"),
    ],
    ids=["a foreign error", "an index"],
)
def test_a_reader_that_forgets_something_is_found(call: object, words: str) -> None:
    forgetful = Parser(name="x", call=call, covers=(), samples=[b"0123456789" * 3], may_raise=())  # type: ignore[arg-type] # a callable
    with pytest.raises(FoundError, match=words):
        feed(forgetful, SEED, 500)
