"""What of tuf's inside our client relies on: a new version of tuf that changes it fails here, and not on a device."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest
from trust_repository import NOW, NOW_S, TrustRepository
from tuf.ngclient._internal import trusted_metadata_set
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from edge_agent import update_trust_client
from edge_agent.errors import UpdateTrustError
from edge_agent.update_trust_client import believe

pytestmark = pytest.mark.edge


def test_the_version_is_one_that_was_read() -> None:
    assert version("tuf").split(".")[0] == "7"


def test_the_hooks_that_are_ours_are_there_and_are_all_that_touches_a_disk() -> None:
    for name, parameters in {
        "_load_local_metadata": ["self", "rolename"],
        "_persist_metadata": ["self", "rolename", "data"],
        "_persist_root": ["self", "version", "data"],
        "_update_root_symlink": ["self"],
    }.items():
        assert list(inspect.signature(getattr(Updater, name)).parameters) == parameters
        assert name in vars(update_trust_client._Client)
    assert list(inspect.signature(FetcherInterface.download_bytes).parameters) == [
        "self",
        "url",
        "max_length",
    ]
    source = inspect.getsource(Updater)
    opened = re.findall(r"\b(?:open|os\.replace|os\.remove|os\.symlink|NamedTemporaryFile)\(.*", source)
    mine = {"_load_local_metadata", "_persist_file", "_update_root_symlink"}
    here = "".join(inspect.getsource(getattr(Updater, name)) for name in mine)
    # And three that are not reached: targets are never downloaded here, and no folder of roots exists.
    elsewhere = [line for line in opened if line not in here]
    assert elsewhere == [
        'open(filepath, "rb") as target_file:',
        'open(filepath, "wb") as destination_file:',
        'open(root_path, "rb") as f:',
    ]


def test_nothing_but_the_reference_time_is_a_clock() -> None:
    """Were there another look at the system clock, a device with a wrong one would be led by it."""
    sources = inspect.getsource(trusted_metadata_set) + inspect.getsource(Updater)
    assert re.findall(r"datetime\.now|\btime\.time\(|utcnow", sources) == ["datetime.now"]
    assert sources.count("is_expired(") == sources.count("is_expired(self.reference_time)")
    made = TrustedMetadataSet(TrustRepository().pinned, EnvelopeType.METADATA)
    assert isinstance(made.reference_time, datetime)
    assert made.reference_time.tzinfo is UTC or made.reference_time.utcoffset() == timedelta(0)


@pytest.mark.parametrize(("days", "is_good"), [(-3650, True), (0.99, True), (1.01, False), (3650, False)])
def test_the_time_is_the_one_that_is_handed_in(days: float, is_good: bool) -> None:
    files = TrustRepository(now=NOW).files
    now_s = NOW_S + days * 86_400

    def walk() -> None:
        believe(files["1.root.json"], "pump", lambda name, _: files.get(name), now_s=now_s)

    if is_good:
        walk()
    else:
        with pytest.raises(UpdateTrustError, match="expired"):
            walk()


def test_no_file_is_looked_for_and_none_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwelcome(*arguments: object, **_: object) -> None:
        raise AssertionError(f"{arguments} was opened")

    files = TrustRepository().files
    for name in (
        "os.replace",
        "os.symlink",
        "os.remove",
        "tempfile.NamedTemporaryFile",
        "tempfile.TemporaryFile",
    ):
        monkeypatch.setattr(name, unwelcome)
    believe(files["1.root.json"], "pump", lambda name, _: files.get(name), now_s=NOW_S)
