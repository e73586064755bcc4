"""The champion is what most devices shall run, never what was taken back."""

from __future__ import annotations

import re

import pytest
from aggregator_world import FAMILY, TRUSTED, FleetInMemory, first_bundle

from aggregator.errors import ChampionError
from aggregator.rounds.champion import choose_champion, fetch_champion, next_version
from aggregator.rounds.ports import ReleaseRecord


@pytest.mark.parametrize(
    ("desired", "withdrawn", "champion"),
    [
        ({1: 0}, set(), 1),
        ({1: 12, 2: 0}, set(), 1),  # published, and not rolled out yet
        ({1: 11, 2: 1}, set(), 1),  # in its canary
        ({1: 4, 2: 8}, set(), 2),
        ({1: 6, 2: 6}, set(), 2),
        ({1: 12, 2: 0, 3: 0}, set(), 1),  # after an undo by hand: nothing is withdrawn, nobody runs the newer
        ({1: 10, 2: 2}, {2}, 1),  # rolled back, and two devices have not answered
        ({1: 2, 2: 10}, {2}, 1),  # withdrawn by a person while most devices still run it
        ({1: 0, 2: 0, 3: 0}, {3}, 2),  # no fleet that counts: the newest that stands
        ({1: 3}, {1}, None),
        ({}, set(), None),
    ],
)
def test_the_champion_is_what_most_devices_shall_run(
    desired: dict[int, int], withdrawn: set[int], champion: int | None
) -> None:
    records = [
        ReleaseRecord(
            release=f"pump/{version}",
            version=version,
            is_withdrawn=version in withdrawn,
            desired_devices=count,
        )
        for version, count in desired.items()
    ]
    for order in (records, records[::-1]):
        chosen = choose_champion(order)
        assert (chosen and chosen.version) == champion


def test_versions_count_on_from_everything_ever_published() -> None:
    fleet = FleetInMemory((), bundles={1: b"", 2: b"", 7: b""}, desired={1: 9}, withdrawn={7})
    assert next_version(fleet, FAMILY) == 8
    assert next_version(FleetInMemory((), bundles={}), FAMILY) == 1


def test_a_family_whose_releases_are_all_withdrawn_is_told_which_version_to_publish() -> None:
    fleet = FleetInMemory((), bundles={1: first_bundle()}, desired={1: 9}, withdrawn={1})
    words = "no release of family 'pump' that is not withdrawn (of 1); publish version 2 first"
    with pytest.raises(ChampionError, match=re.escape(words)):
        fetch_champion(fleet, FAMILY, TRUSTED)
    fleet.withdrawn.clear()
    assert fetch_champion(fleet, FAMILY, TRUSTED)[0] == first_bundle()
