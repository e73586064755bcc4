"""An image on a medium: every block is read back, the failing one is named, and what is half-written cannot be taken for a card."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fleet.flashing.media import DiskMedium, write_and_verify
from fleet.flashing.programs import FlashError
from runtime.errors import SettingsError

BLOCK = 4096


def silent(what: str, done: int, total: int) -> None:
    assert what in {"writing", "verifying"}
    assert 0 <= done <= total


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "card.img"
    path.write_bytes(os.urandom(5 * BLOCK + 100))
    return path


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card"
    path.write_bytes(b"\xee" * 10 * BLOCK)
    return path


class Worn(DiskMedium):
    """A card, one block of which forgets, or refuses."""

    def __init__(self, path: Path, *, forgets: int = -1, refuses: int = -1, unreadable: int = -1) -> None:
        super().__init__(path)
        self._forgets, self._refuses, self._unreadable = forgets * BLOCK, refuses * BLOCK, unreadable * BLOCK

    def write_at(self, offset: int, data: bytes) -> None:
        if offset == self._refuses:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().write_at(offset, data[:-1] + b"?" if offset == self._forgets else data)

    def read_at(self, offset: int, length: int) -> bytes:
        if offset == self._unreadable:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read_at(offset, length)


def test_a_whole_image_is_on_the_card_and_what_lies_behind_it_is_untouched(image: Path, card: Path) -> None:
    with DiskMedium(card) as medium:
        assert write_and_verify(image, medium, "the card", silent, block_bytes=BLOCK) == 6
    content, wanted = card.read_bytes(), image.read_bytes()
    assert content[: len(wanted)] == wanted
    assert set(content[len(wanted) :]) == {0xEE}


def test_a_block_that_forgets_is_named_and_the_card_does_not_boot(image: Path, card: Path) -> None:
    said = r"block 4 of 6 \(from byte 12,288\) is another one when it is read back: the medium is bad, .* made unbootable, and is of no use"
    with Worn(card, forgets=3) as medium, pytest.raises(FlashError, match=said):
        write_and_verify(image, medium, "the card", silent, block_bytes=BLOCK)
    assert card.read_bytes()[:BLOCK] == bytes(BLOCK)


def test_a_block_that_refuses_is_named_and_the_card_has_no_partition_table(image: Path, card: Path) -> None:
    said = r"block 3 of 6 \(from byte 8,192\) could not be written: Input/output error\. the card is half-written, does not boot"
    with Worn(card, refuses=2) as medium, pytest.raises(FlashError, match=said):
        write_and_verify(image, medium, "the card", silent, block_bytes=BLOCK)
    assert card.read_bytes()[:BLOCK] == bytes(BLOCK), "the first block is written last"


def test_a_block_that_cannot_be_read_is_named(image: Path, card: Path) -> None:
    said = r"block 2 of 6 .* could not be read back: Input/output error"
    with Worn(card, unreadable=1) as medium, pytest.raises(FlashError, match=said):
        write_and_verify(image, medium, "the card", silent, block_bytes=BLOCK)


def test_a_full_medium_is_one_line(image: Path) -> None:
    with (
        DiskMedium(Path("/dev/full")) as medium,
        pytest.raises(FlashError, match="No space left on device") as told,
    ):
        write_and_verify(image, medium, "/dev/full", silent, block_bytes=BLOCK)
    assert "\n" not in str(told.value)


def test_a_card_that_may_not_be_opened_says_so_and_is_untouched(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"nowhere cannot be opened: No such file or directory; nothing was written"
    ):
        DiskMedium(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("step", "said", "boots"),
    [
        ("writing", "interrupted: the card is half-written and does not boot; write it again", False),
        ("verifying", "interrupted: the card was not read back to its end; write it again", True),
    ],
)
def test_who_interrupts_it_is_told_what_is_left(
    image: Path, card: Path, step: str, said: str, boots: bool
) -> None:
    def impatient(what: str, done: int, _total: int) -> None:
        if what == step and done:
            raise KeyboardInterrupt

    with DiskMedium(card) as medium, pytest.raises(FlashError, match=said):
        write_and_verify(image, medium, "the card", impatient, block_bytes=BLOCK)
    assert (card.read_bytes()[:BLOCK] == image.read_bytes()[:BLOCK]) is boots
