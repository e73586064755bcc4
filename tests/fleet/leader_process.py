"""A process that leads when it may, and writes a row for as long as it does: `python leader_process.py URL NAME [STOPS]`.

It stops itself (SIGSTOP) at its third row, ``before`` its write or ``within`` it, and says on stdout what happens. Leases are short here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from sqlalchemy.exc import SQLAlchemyError

import fleet.leadership
import fleet.storage.base
from fleet import audit
from fleet.errors import NotLeaderError
from fleet.leadership import open_leadership
from fleet.storage.base import open_database

LEASE_S = 2.0
fleet.leadership.LEASE_S = LEASE_S
fleet.leadership.MARGIN_S = 0.3
fleet.leadership.LOOKS_EVERY_S = 0.2
fleet.storage.base.WRITER_STOPS_S = 2


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.1)  # the other threads may be stopped first


def say(word: str) -> None:
    print(word, flush=True)


async def main(url: str, name: str, stops: str) -> None:
    database = open_database(url)
    leadership = open_leadership(database, instance=name, installation="one", hear=lambda _word: None)
    rows = 0

    def write() -> None:
        nonlocal rows
        rows += 1
        if (rows, stops) == (3, "before"):
            stop()
        try:
            with leadership.database.write() as session:
                audit.record(session, at=time.time(), actor=name, action="led", subject=str(rows))
                if (rows, stops) == (3, "within"):
                    session.flush()
                    stop()
            say(f"wrote {rows}")
        except NotLeaderError:
            say("refused")
        except SQLAlchemyError:
            say("ended")

    async def lead() -> None:
        say("leads")
        try:
            while True:
                await asyncio.to_thread(write)
                await asyncio.sleep(0.02)
        finally:
            say("leads no more")

    await asyncio.gather(leadership.run(), leadership.while_leading(lead))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
