"""Which retained words the broker certainly holds, told by a mark that is retained behind them.

A broker that is only reached again holds what it confirmed; one that was killed goes back to what it last wrote to its disk,
and an embedded one has forgotten everything. From outside these look alike. So after words were confirmed, a numbered mark
is retained on a topic of the fleet's own: a broker that still has mark n has all that was confirmed before mark n was
sent, because it takes what one client says in order and writes its memory to disk as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.messages.kinds import Kind

__all__ = ["HeldWords", "WordKey"]

WordKey = tuple[Kind, str]
"""A retained message, by its kind and its device."""


class HeldWords:
    """What was confirmed under which mark. Of one thread, and of one life of the process: another life's mark says nothing.

    Args:
        life: tells the marks of this process from those of any other.

    Examples:
        >>> held = HeldWords("a1")
        >>> held.confirm([(Kind.DESIRED, "press-1")])
        >>> mark = held.next_mark()
        >>> held.confirm([(Kind.DESIRED, "press-2")])
        >>> held.doubtful(mark)
        {(<Kind.DESIRED: 'desired'>, 'press-2')}
        >>> held.doubtful(b"") is None
        True
    """

    def __init__(self, life: str) -> None:
        self._life = life
        self._number = 1
        self._under: dict[WordKey, int] = {}
        self._has_news = False

    def confirm(self, words: Iterable[WordKey]) -> None:
        """The broker has confirmed `words`, as they are in the database or later."""
        for word in words:
            self._under[word] = self._number
            self._has_news = True

    def next_mark(self) -> bytes | None:
        """The mark to retain now, which stands for all that was confirmed until now; None where the last one still does."""
        if not self._has_news:
            return None
        self._has_news = False
        mark = f"{self._life} {self._number}".encode()
        self._number += 1
        return mark

    def doubtful(self, mark: bytes) -> set[WordKey] | None:
        """The words that a broker may lack which holds `mark` (empty: none); None: it may lack every word there is."""
        life, _, number = mark.decode(errors="replace").partition(" ")
        if life != self._life or not number.isdecimal():
            return None
        return {word for word, under in self._under.items() if under > int(number)}

    def everything(self) -> set[WordKey]:
        """All words that were ever confirmed: also of what has no row any more."""
        return set(self._under)
