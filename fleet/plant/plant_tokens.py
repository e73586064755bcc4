"""The tokens of a plant, each in a file of mode 0600: two for the person who made it, two for the services themselves.

A file that is there is kept. Where the file is gone its token gets a new secret at once: nobody holds the old one any more. The
aggregator's are made by its own command, as its database is its own.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import time
from typing import Final

from fleet.auth.operator_tokens import PREFIX, SessionRows
from fleet.plant.written import Outcome, WrittenFiles
from fleet.storage.base import Database
from runtime.durable_files import private_directory
from service.errors import StartError
from service.plant import Plant
from service.roles import Role
from service.secret_files import write_secret
from service.tokens import TokenGrant, create_token, rotate_token

__all__ = ["make_aggregator_parts", "make_fleet_tokens"]

_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+|^[^A-Za-z0-9]+")


def make_fleet_tokens(plant: Plant, database: Database, files: WrittenFiles) -> None:
    """The admin token of whoever makes the plant, and the publisher token of its aggregator; raises StorageError."""
    private_directory(plant.tokens)
    person = person_here()
    for path, grant in (
        (plant.admin_token, TokenGrant(name="plant-admin", role=Role.ADMIN, person=person)),
        (plant.publisher_token, TokenGrant(name="plant-aggregator", role=Role.PUBLISHER, is_program=True)),
    ):
        if path.exists():
            files.note(path, Outcome.KEPT)
            continue
        with database.write() as session:
            rows = SessionRows(session)
            known = rows.find(grant.name)
            if known is None or known.revoked_at is not None:
                secret = create_token(rows, grant, prefix=PREFIX, now=time.time(), random_bytes=os.urandom)
            else:
                secret = rotate_token(
                    rows, grant.name, prefix=PREFIX, now=time.time(), random_bytes=os.urandom, grace_s=0.0
                )
            write_secret(path, secret)
        files.note(path, Outcome.MADE)


def make_aggregator_parts(plant: Plant, files: WrittenFiles) -> None:
    """The aggregator's tokens, and the public key that devices know it by.

    Raises:
        StartError: the aggregator is not installed, or refuses.
    """
    config = str(plant.aggregator_config)
    for path, options in (
        (plant.operator_token, ("--role", "operator", "--name", "plant-operator", "--person", person_here())),
        (plant.viewer_token, ("--role", "viewer", "--name", "plant-fleet", "--program")),
    ):
        if path.exists():
            files.note(path, Outcome.KEPT)
            continue
        try:
            _ask_aggregator("tokens", "create", *options, "--config", config, "--out", str(path))
        except StartError as error:
            if "exists" not in str(error):
                raise
            _ask_aggregator("tokens", "rotate", options[3], "--now", "--config", config, "--out", str(path))
        files.note(path, Outcome.MADE)
    if plant.aggregator_key.exists():
        files.note(plant.aggregator_key, Outcome.KEPT)
        return
    _ask_aggregator("identity", "--config", config, "--out", str(plant.aggregator_key))
    files.note(plant.aggregator_key, Outcome.MADE)


def person_here() -> str:
    """Who makes the plant, as tokens name a person: the user of this process."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"user{os.getuid()}"
    return _NO_NAME.sub("", name)[:64] or "admin"


def _ask_aggregator(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "aggregator", *words], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    if "No module named" in said[0]:
        raise StartError(
            f"the aggregator is not installed here ({said[0].rpartition('Error: ')[2]}): pip install 'fedge[aggregator]'"
        )
    raise StartError(said[0].removeprefix("fedge-aggregator: "))
