"""What any TUF client must do with delegations, held against ours over a real HTTPS server.

Source: The Update Framework 1.0.33, section 5; the cases are those of the public suite theupdateframework/tuf-conformance, told anew.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pytest
from trust_conformance_world import SHA256, check, device
from trust_device import TrustDevice
from trust_repository import TrustRepository, signer
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, TargetFile, Targets

from edge_agent.errors import ReleaseRefusedError, UpdateTrustError
from protocol.trust_roles import model_target

__all__ = ["device"]  # the fixture
pytestmark = pytest.mark.edge


KEYS = [signer() for _ in range(2)]
ALL = ["models/pump/*"]
GRAPHS: dict[str, tuple[list[tuple[str, str, list[str], bool]], list[str]]] = {
    "in their order": ([("targets", "a", ALL, False), ("targets", "b", ALL, False)], ["a", "b"]),
    "depth first": (
        [
            ("targets", "a", ALL, False),
            ("targets", "b", ALL, False),
            ("a", "c", ALL, False),
            ("c", "d", ALL, False),
        ],
        ["a", "c", "d", "b"],
    ),
    "one that ends the search": (
        [
            ("targets", "a", ALL, False),
            ("targets", "b", ALL, False),
            ("a", "c", ALL, True),
            ("a", "d", ALL, False),
        ],
        ["a", "c"],
    ),
    "one for other paths": (
        [("targets", "a", ["models/press/*"], False), ("targets", "b", ALL, False), ("a", "c", ALL, False)],
        ["b"],
    ),
    "a circle": (
        [
            ("targets", "a", ALL, False),
            ("a", "b", ALL, False),
            ("b", "a", ALL, False),
            ("b", "c", ALL, False),
        ],
        ["a", "b", "c"],
    ),
    "one that two lead to": (
        [
            ("targets", "a", ALL, False),
            ("targets", "b", ALL, False),
            ("b", "c", ALL, False),
            ("a", "c", ALL, False),
        ],
        ["a", "c", "b"],
    ),
    "no wild card for a folder": (
        [("targets", "a", ["models/*"], False), ("targets", "b", ["*/*/*"], False)],
        ["b"],
    ),
}


def delegate(
    repository: TrustRepository, edges: list[tuple[str, str, list[str], bool]]
) -> dict[str, Targets]:
    """Delegations between roles, all with one key, in place of the family's own."""
    assert repository.targets.delegations is not None
    repository.targets.delegations.roles = {}
    roles: dict[str, Targets] = {"targets": repository.targets}
    for parent, child, paths, terminating in edges:
        for name in (parent, child):
            roles.setdefault(name, Targets(expires=repository.day(90)))
        owner = roles[parent]
        owner.delegations = owner.delegations or Delegations(keys={}, roles={})
        key = KEYS[0].public_key
        owner.delegations.keys[key.keyid] = key
        assert owner.delegations.roles is not None
        owner.delegations.roles[child] = DelegatedRole(child, [key.keyid], 1, terminating, paths)
    for name, targets in roles.items():
        repository.signers.setdefault(name, [KEYS[0]])
        repository._publish_targets(name, targets)
    repository.publish("snapshot", "timestamp")
    return roles


@pytest.mark.parametrize(("edges", "visited"), GRAPHS.values(), ids=GRAPHS)
def test_delegations_are_walked_in_the_order_of_the_specification(
    device: TrustDevice, edges: list[tuple[str, str, list[str], bool]], visited: list[str]
) -> None:
    delegate(device.repository, edges)
    device.trust.refresh()
    assert [name.split(".")[1] for name in device.asked[4:]] == visited
    with pytest.raises(ReleaseRefusedError):
        check(device)


def test_a_role_cannot_list_what_was_not_delegated_to_it(device: TrustDevice) -> None:
    path = model_target("pump/7")
    roles = delegate(
        device.repository, [("targets", "press", ["models/press/*"], False), ("targets", "a", ALL, False)]
    )
    roles["press"].targets[path] = TargetFile(1, {"sha256": SHA256}, path)
    device.repository._publish_targets("press", roles["press"])
    device.repository.publish("snapshot", "timestamp")
    with pytest.raises(ReleaseRefusedError, match="does not list it"):
        device.trust.check_listed("pump/7", SHA256, 1)
    assert "press" not in " ".join(device.asked)


def test_a_delegation_of_a_delegation_may_list_a_release(device: TrustDevice) -> None:
    path = model_target("pump/7")
    roles = delegate(device.repository, [("targets", "a", ALL, False), ("a", "b", ALL, False)])
    roles["b"].targets[path] = TargetFile(1, {"sha256": SHA256}, path)
    device.repository._publish_targets("b", roles["b"])
    device.repository.publish("snapshot", "timestamp")
    device.trust.check_listed("pump/7", SHA256, 1)
    device.is_away = True
    device.restart()
    device.trust.check_listed("pump/7", SHA256, 1)


def test_a_role_that_the_snapshot_does_not_name_is_not_used(device: TrustDevice) -> None:
    edges = [("targets", "a", ALL, False)]
    delegate(device.repository, edges)
    device.repository.snapshot.meta.pop("a.json")
    device.repository.publish("snapshot", "timestamp")
    device.trust.refresh()
    with pytest.raises(UpdateTrustError, match="Role a was delegated but is not part of snapshot"):
        check(device)


def test_a_role_is_verified_against_whoever_leads_to_it_now(device: TrustDevice) -> None:
    """Two roles delegate to a third under different keys: what is good by the first is not good by the second."""
    repository = device.repository
    roles = delegate(
        repository,
        [
            ("targets", "a", ["models/press/*"], False),
            ("targets", "b", ALL, False),
            ("a", "c", ["models/press/*"], False),
            ("b", "c", ALL, False),
        ],
    )
    key = KEYS[1].public_key
    assert roles["b"].delegations is not None
    roles["b"].delegations.keys[key.keyid] = key
    assert roles["b"].delegations.roles is not None
    roles["b"].delegations.roles["c"].keyids = [key.keyid]
    repository._publish_targets("b", roles["b"])
    repository.publish("snapshot", "timestamp")
    with pytest.raises(UpdateTrustError, match="c was signed by 0/1 keys"):
        check(device)


def test_delegations_without_end_are_not_walked_without_end(device: TrustDevice) -> None:
    names = ["targets", *(f"r{number}" for number in range(20))]
    delegate(device.repository, [(a, b, ALL, False) for a, b in pairwise(names)])
    device.trust.refresh()
    assert len(device.asked) == 4 + 8


@pytest.mark.parametrize(
    "role", ["?", "#", "/delegatedrole", "../delegatedrole", "a/b", "..", "timestamp", "ü", "a b", "x" * 300]
)
def test_a_role_with_an_unusual_name_harms_nothing(device: TrustDevice, role: str, tmp_path: Path) -> None:
    repository = device.repository
    assert repository.targets.delegations is not None
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    names = repository.delegate(role, [KEYS[0]], ALL)
    assert names.name == role
    list_of_role = Targets(expires=repository.day(9))
    content = repository.signed(list_of_role, role, by=[KEYS[0]])
    repository.files[f"1.{quote(role, '')}.json"] = content
    repository.files[f"1.{role}.json"] = content
    repository.snapshot.meta[f"{role}.json"] = MetaFile(1)
    repository.publish("targets", "snapshot", "timestamp")
    with suppress(UpdateTrustError, ReleaseRefusedError):
        check(device)
    after = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert all(path.is_relative_to(device.folder) for path in set(after) - set(before))
