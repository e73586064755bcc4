"""The repository and its changes in plain words, for who is about to sign, and for who asks what holds.

Every key is named by the beginning of its id (the digest of its public half): `fedge-fleet trust keys show` says the id of a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tuf.api.metadata import Key, Root, Targets

from fleet.trust.ceremony import Change
from fleet.trust.metadata import DAY_S
from fleet.trust.published import Published
from fleet.trust.renewal import WARN_BEFORE_S, expiries

__all__ = ["change_words", "key_words", "missing_words", "repository_words"]


def key_words(keyid: str) -> str:
    """A key's name for people: 16 of 64 characters, in groups."""
    return " ".join(keyid[at : at + 4] for at in range(0, 16, 4))


def change_words(change: Change) -> Iterator[str]:
    """What becomes true once this is published, with what changes marked."""
    for role, metadata in change.files.items():
        before = change.before.get(role)
        signed, known = metadata.signed, before.signed if before else None
        step = (
            f"version {known.version} becomes {signed.version}"
            if known
            else f"version {signed.version}, the first"
        )
        yield f"{role}: {step}; good until {signed.expires:%Y-%m-%d}"
        if isinstance(signed, Root):
            yield from _indented(_root_words(signed, known if isinstance(known, Root) else None))
        elif signed.delegations is not None:
            yield from _indented(_delegation_words(signed, known if isinstance(known, Targets) else None))
        else:
            yield from _indented(_listing_words(signed, known if isinstance(known, Targets) else None))


def missing_words(change: Change) -> Iterator[str]:
    """Who must still sign."""
    for missing in change.missing():
        names = ", ".join(key_words(key.keyid) for key in missing.keys)
        yield f"{missing.name}: {missing.count} more of {missing.whose}: {names}"


def repository_words(published: Published, now: float) -> Iterator[str]:
    """What holds now: keys, releases, and what ends when, with what must be signed soon marked."""
    ends = expiries(published, now)
    yield from _root_words(published.root.signed, None)
    yield from _delegation_words(published.targets.signed, None)
    for role, listed in published.roles.items():
        yield f"{role} lists: {', '.join(_names(listed.signed)) or 'nothing'}"
    for role, left_s in ends.items():
        words = "has ENDED" if left_s <= 0 else f"ends in {left_s / DAY_S:.1f} days"
        is_theirs = role in {"snapshot", "timestamp"}
        late = left_s < (0 if is_theirs else WARN_BEFORE_S)
        yield f"{role} {words}" + (f": {_remedy(role)}" if late else "")


def _remedy(role: str) -> str:
    if role in {"snapshot", "timestamp"}:
        return "the fleet signs it anew while it runs"
    if role.startswith("family-"):
        return "the aggregator signs it anew while it runs, or people do: fedge-fleet trust renew"
    return "sign it anew: fedge-fleet trust renew"


def _root_words(root: Root, known: Root | None) -> Iterator[str]:
    for role, entry in root.roles.items():
        before = known.roles[role] if known else None
        how = f"{entry.threshold} of {len(entry.keyids)} keys" if role == Root.type else "the key"
        yield f"{role} is signed by {how}: {_marked(entry.keyids, before.keyids if before else None)}"
        if before and before.threshold != entry.threshold:
            yield f"  it was {before.threshold} of {len(before.keyids)}"


def _delegation_words(targets: Targets, known: Targets | None) -> Iterator[str]:
    roles = (targets.delegations.roles if targets.delegations else None) or {}
    former = (known.delegations.roles if known and known.delegations else None) or {}
    for role, entry in roles.items():
        what = f"may sign {', '.join(entry.paths)}" if entry.paths else "gives the devices instructions"
        before = former[role].keyids if role in former else [] if known else None
        yield f"{role} {what}: {_marked(entry.keyids, before)}"
    for role in former.keys() - roles.keys():
        yield f"{role}: REMOVED; devices take nothing of it any more"


def _listing_words(listed: Targets, known: Targets | None) -> Iterator[str]:
    before = set(_names(known)) if known else set()
    names = _names(listed)
    yield f"lists {len(names)} releases" + (
        f", of which new: {', '.join(new)}" if (new := [n for n in names if n not in before]) else ""
    )
    if gone := before - set(names):
        yield f"no longer: {', '.join(sorted(gone))}"
    if other := sorted(
        path for path, file in listed.targets.items() if known and known.targets.get(path, file) != file
    ):
        yield f"OTHER BYTES than before: {', '.join(other)}"


def _names(listed: Targets) -> list[str]:
    return sorted(path.removeprefix("models/").removesuffix(".fedge") for path in listed.targets)


def _marked(keyids: Iterable[str], before: list[str] | None) -> str:
    """The keys; beside what was `before`, those that come and go."""
    now = list(keyids)
    words = [key_words(key) + (" (NEW)" if before is not None and key not in before else "") for key in now]
    words += [f"{key_words(key)} (REMOVED)" for key in before or () if key not in now]
    return ", ".join(words)


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def words_of_keys(keys: Iterable[Key]) -> str:
    """Several keys."""
    return ", ".join(key_words(key.keyid) for key in keys)
