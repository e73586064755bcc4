"""``trust``: the ceremony as people go through it, each on a machine of their own: keys, signing, putting together, looking.

``trust_changes`` has what happens on the fleet's machine: preparing and publishing. Nothing here needs the network.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.commands.connection import ConfigOption
from fleet.commands.passphrases import passphrase_for, passphrase_of
from fleet.commands.printing import say
from runtime.errors import SettingsError

# tuf and its libraries take half a second to import, which a client command of the same program need not wait for:
# the imports inside the functions below are for that.
if TYPE_CHECKING:
    from fleet.trust.repository import TrustRepository

__all__ = ["FolderArgument", "OutOption", "open_repository", "say_lines", "trust"]

trust = typer.Typer(
    help="The signed repository that devices trust: its keys, its changes, what holds now.",
    no_args_is_help=True,
)
keys = typer.Typer(help="Keys that people hold, on their own machines.", no_args_is_help=True)
trust.add_typer(keys, name="keys")

PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        envvar="FEDGE_TRUST_PASSPHRASE_FILE",
        help="Read the passphrase there instead of asking for it",
    ),
]
FolderArgument = Annotated[Path, typer.Argument(help="The folder of the change")]
OutOption = Annotated[Path, typer.Option("--out", help="A new folder for the change")]


@keys.command("create")
def keys_create(
    out: Annotated[Path, typer.Option("--out", help="e.g. alice.key; its public half becomes alice.pub.pem")],
    no_passphrase: Annotated[
        bool,
        typer.Option(
            "--no-passphrase", help="Who has the file has the key; for a chip card's safe, not a laptop"
        ),
    ] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a key for root, for targets or for agent software (Ed25519, mode 0600); never over another one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fleet.trust.key_files import write_key_pair

    passphrase = None if no_passphrase else passphrase_for(out, passphrase_file).encode()
    public = write_key_pair(out, Ed25519PrivateKey.generate(), passphrase)
    say(
        f"{out} is the key: keep it on this machine or a stick in a safe, and a copy elsewhere; give it to nobody"
    )
    say(
        f"{public} is its public half, id {_id_of(public)}: give it to whoever prepares the change, and say the id by voice"
    )


@keys.command("show")
def keys_show(public: Annotated[Path, typer.Argument(help="A public key, PEM")]) -> None:
    """Print the id of a public key, as `trust sign` and `trust show` name it."""
    say(_id_of(public))


@trust.command("sign")
def sign(
    folder: FolderArgument,
    key: Annotated[Path, typer.Option("--key", help="Your private key")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: you have read it with trust show")] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Read what a change says, and sign what your key counts for."""
    from fleet.trust.ceremony import read_change, save_signatures
    from fleet.trust.key_files import load_private_key
    from fleet.trust.words import change_words

    change = read_change(folder)
    say_lines(change_words(change))
    if not yes and not typer.confirm("Is this what you were asked to sign, and are these the keys?"):
        raise SettingsError("nothing was signed")
    signed = change.sign(load_private_key(key, lambda of: passphrase_of(of, passphrase_file).encode()))
    save_signatures(folder, change)
    say(f"signed: {', '.join(signed)}")
    _say_what_is_missing(folder)


@trust.command("assemble")
def assemble(
    folders: Annotated[list[Path], typer.Argument(help="Copies of one change, signed by several people")],
    out: OutOption,
) -> None:
    """Put the signatures of several copies into one; says who must still sign."""
    from fleet.trust.ceremony import assemble as put_together
    from fleet.trust.ceremony import copy_change, read_change

    copy_change(out, put_together([read_change(folder) for folder in folders]))
    _say_what_is_missing(out)


@trust.command("show")
def show(
    folder: Annotated[
        Path | None, typer.Argument(help="A change; without it, what holds now (--config)")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="fleet.toml")] = None,
) -> None:
    """Say in plain words what a change would do, or what holds now, and what ends when."""
    from fleet.trust.ceremony import read_change
    from fleet.trust.words import change_words, repository_words

    if folder is not None:
        say_lines(change_words(read_change(folder)))
        _say_what_is_missing(folder)
        return
    if config is None:
        raise SettingsError("name the folder of a change, or --config fleet.toml for what holds now")
    say_lines(repository_words(open_repository(config).published(), time.time()))


@trust.command("root")
def root(
    config: ConfigOption,
    out: Annotated[Path, typer.Option("--out", help="e.g. root.json; agent.toml names it: [trust] root")],
) -> None:
    """Write the newest root for devices to pin; an older one leads to it as well."""
    from fleet.trust.metadata import encode
    from runtime.durable_files import write_durably

    published = open_repository(config).published()
    write_durably(out, encode(published.root))
    say(f"{out}: root version {published.root.signed.version}; put it on devices as [trust] root")


def open_repository(config: Path) -> TrustRepository:
    """The repository of the fleet that `config` describes."""
    from fleet.settings import load_fleet_settings
    from fleet.trust.repository import TrustRepository

    return TrustRepository(load_fleet_settings(config).data_dir / "trust")


def say_lines(lines: Iterable[str]) -> None:
    """Print each line."""
    for line in lines:
        say(line)


def _say_what_is_missing(folder: Path) -> None:
    from fleet.trust.ceremony import read_change
    from fleet.trust.words import missing_words

    if missing := list(missing_words(read_change(folder))):
        say_lines(["still to be signed:", *(f"  {line}" for line in missing)])
    else:
        say(
            f"complete: carry {folder} to the fleet's machine, and there: fedge-fleet trust publish {folder} --config ..."
        )


def _id_of(public: Path) -> str:
    from fleet.trust.key_files import load_public_key
    from fleet.trust.metadata import public_key
    from fleet.trust.words import key_words

    return key_words(public_key(load_public_key(public)).keyid)
