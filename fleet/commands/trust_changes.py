"""``trust init|delegate|rotate|renew|publish``: what happens on the fleet's machine, before and after people sign.

Preparing needs public keys only and changes nothing that devices see; publishing changes everything at once, or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.commands.connection import ConfigOption
from fleet.commands.printing import say
from fleet.commands.trust import FolderArgument, OutOption, open_repository, say_lines, trust
from protocol.names import check_name
from protocol.trust_roles import AGENT_ROLE, FLEET_ROLE, family_role, model_target
from runtime.errors import SettingsError

# tuf and the database need not be waited for by a client command of the same program
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from fleet.trust.metadata import PublicKey
    from fleet.trust.published import Published
    from fleet.trust.repository import TrustRepository

__all__ = ["trust"]

rotate = typer.Typer(help="Prepare the change of a key, for people to sign.", no_args_is_help=True)
trust.add_typer(rotate, name="rotate")

KeyOption = Annotated[Path, typer.Option("--key", help="The new public key, PEM")]
KeepOption = Annotated[
    bool,
    typer.Option(
        "--keep-old",
        help="The keys so far count beside it: for a change without haste; never for a stolen one",
    ),
]


@trust.command("init")
def init(
    *,
    config: ConfigOption,
    root: Annotated[
        list[Path], typer.Option("--root", help="A person's public key; once for each, three are usual")
    ],
    targets: Annotated[Path, typer.Option("--targets", help="Public key that names the other keys")],
    family: Annotated[
        list[str], typer.Option("--family", help="NAME=release.pub.pem; once for each model family")
    ],
    out: OutOption,
    agent: Annotated[
        Path | None, typer.Option("--agent", help="Public key that signs agent software")
    ] = None,
    threshold: Annotated[int, typer.Option("--threshold", help="How many of the root keys must sign")] = 2,
) -> None:
    """Prepare a repository: who may speak for what. Makes this fleet's online keys, and its instruction key where there is none."""
    from fleet.trust.ceremony import write_change
    from fleet.trust.changes import check_root_keys
    from fleet.trust.creation import first_root, first_targets
    from fleet.trust.metadata import encode

    repository, now = _empty_repository(config), time.time()
    root_keys = [_signing_key(path) for path in root]
    check_root_keys(root_keys, threshold)
    delegations: dict[str, list[PublicKey]] = {FLEET_ROLE: [_instruction_key(config)]}
    delegations |= {AGENT_ROLE: [_signing_key(agent)]} if agent else {}
    for name, keys in _families(family).items():
        delegations[family_role(name)] = list(keys)
    first = first_root(root_keys, threshold, _signing_key(targets), repository.online_keys.make(), now)
    files = {"1.root.json": encode(first), "1.targets.json": encode(first_targets(delegations, now))}
    write_change(out, files, None)
    _say_prepared(out)


@trust.command("trial")
def trial(
    config: ConfigOption,
    family: Annotated[
        list[str], typer.Option("--family", help="NAME=release.pub.pem; once for each model family")
    ],
    out: Annotated[Path, typer.Option("--out", help="A new folder for root.json and the keys")],
) -> None:
    """Make and publish a repository at once, for a trial on one machine: one person holds every key, without a passphrase."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fleet.trust.creation import create_repository
    from fleet.trust.key_files import write_key_pair
    from runtime.durable_files import private_directory, write_durably

    directory = _empty_repository(config).directory
    names = ("root-1", "root-2", "root-3", "targets")
    keys = {name: Ed25519PrivateKey.generate() for name in names}
    private_directory(out)
    for name, key in keys.items():
        write_key_pair(out / f"{name}.key", key, None)
    repository = create_repository(
        directory,
        root_keys=[keys[name] for name in names[:3]],
        targets_key=keys["targets"],
        online_keys=[Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()],
        families=_families(family),
        fleet_key=_instruction_key(config),
        now=time.time(),
    )
    write_durably(out / "root.json", repository.read("1.root.json"), exclusive=True)
    say(f"published; devices pin {out / 'root.json'}. For a trial only: who copies {out} can sign anything")


@trust.command("delegate")
def delegate(
    config: ConfigOption,
    key: Annotated[list[Path], typer.Option("--key", help="Public key of who publishes it; may be repeated")],
    out: OutOption,
    family: Annotated[str | None, typer.Option("--family", help="A model family")] = None,
    agent: Annotated[bool, typer.Option("--agent", help="Agent software instead of a family")] = False,
) -> None:
    """Prepare that exactly these keys sign a model family's releases, or agent software."""
    if agent == (family is not None):
        raise SettingsError("name one: --family NAME, or --agent")
    role = AGENT_ROLE if family is None else family_role(family)
    _prepare_delegation(config, role, [_signing_key(path) for path in key], out, is_kept=False)


@rotate.command("root")
def rotate_root(
    config: ConfigOption,
    key: Annotated[
        list[Path], typer.Option("--key", help="Public key of each person from now on, those that stay too")
    ],
    out: OutOption,
    threshold: Annotated[int, typer.Option("--threshold", help="How many of them must sign")] = 2,
) -> None:
    """Other people, or another key of one: signed by enough of the keys so far and enough of the new ones."""
    from fleet.trust.changes import change_root_keys

    keys = [_signing_key(path) for path in key]
    _prepare(config, out, lambda before, now: change_root_keys(before, keys, threshold, now))


@rotate.command("targets")
def rotate_targets(config: ConfigOption, key: KeyOption, out: OutOption) -> None:
    """Another key that names the other keys: root people sign that, and its holder signs what it names."""
    from fleet.trust.changes import change_targets_key

    new = _signing_key(key)
    _prepare(config, out, lambda before, now: change_targets_key(before, new, now))


@rotate.command("online")
def rotate_online(config: ConfigOption, out: OutOption) -> None:
    """New snapshot and timestamp keys, made here: root people sign them; the former are destroyed once it is published."""
    from fleet.trust.changes import change_online_keys

    keys = open_repository(config).online_keys.make()
    _prepare(config, out, lambda before, now: change_online_keys(before, keys, now))


@rotate.command("family")
def rotate_family(
    config: ConfigOption,
    family: Annotated[str, typer.Option("--family", help="A model family")],
    key: KeyOption,
    out: OutOption,
    keep_old: KeepOption = False,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", help="A release that the thief listed, e.g. motor/7; may be repeated"),
    ] = None,
) -> None:
    """Another release key: the holder of targets signs it, and the new key what is listed."""
    dropped = [model_target(release) for release in drop or ()]
    _prepare_delegation(
        config, family_role(family), [_signing_key(key)], out, is_kept=keep_old, dropped=dropped
    )


@rotate.command("fleet")
def rotate_fleet(config: ConfigOption, key: KeyOption, out: OutOption, keep_old: KeepOption = False) -> None:
    """Another instruction key (from: fedge-fleet instruction-key rotate): devices obey it once this is published."""
    from fleet.trust.key_files import load_public_key

    _prepare_delegation(config, FLEET_ROLE, [load_public_key(key)], out, is_kept=keep_old)


@trust.command("renew")
def renew(
    config: ConfigOption,
    role: Annotated[list[str], typer.Option("--role", help="root, targets or family-NAME; may be repeated")],
    out: OutOption,
) -> None:
    """Prepare the same once more, good for a new while."""
    from fleet.trust.changes import sign_anew

    _prepare(config, out, lambda before, now: sign_anew(before, role, now))


@trust.command("software")
def software(
    config: ConfigOption,
    file: Annotated[list[Path], typer.Argument(help="Agent software, e.g. a wheel, as it is handed out")],
    out: OutOption,
) -> None:
    """Prepare that these files are listed as agent software, for the agent key to sign."""
    from tuf.api.metadata import TargetFile

    from fleet.trust.changes import change_list

    try:
        added = [
            TargetFile.from_file(f"agent/{check_name(path.name, 'file')}", str(path), ["sha256"])
            for path in file
        ]
    except OSError as error:
        raise SettingsError(f"cannot read {error.filename}: {error.strerror}") from None
    _prepare(config, out, lambda before, now: change_list(before, AGENT_ROLE, now, added=added))


@trust.command("publish")
def publish(folder: FolderArgument, config: ConfigOption) -> None:
    """Publish a signed change: devices get it at their next look. A device that could not follow it stops it."""
    from fleet.commands.on_server import changing_files
    from fleet.trust.ceremony import read_change

    contents = read_change(folder).contents
    names = ", ".join(sorted(contents))
    repository = open_repository(config)
    with changing_files(config, "trust_published", names) as told:
        told["root"] = repository.publish(contents, time.time()).root.signed.version
        repository.destroy_former_keys()
    say(f"published: {names}")


def _prepare(config: Path, out: Path, change: Callable[[Published, float], Mapping[str, bytes]]) -> None:
    from fleet.trust.ceremony import write_change

    before = open_repository(config).published()
    write_change(out, change(before, time.time()), before)
    _say_prepared(out)


def _prepare_delegation(
    config: Path,
    role: str,
    keys: Iterable[PublicKey],
    out: Path,
    *,
    is_kept: bool,
    dropped: Iterable[str] = (),
) -> None:
    from fleet.trust.changes import change_delegation
    from fleet.trust.metadata import read_key

    def change(before: Published, now: float) -> Mapping[str, bytes]:
        kept = [read_key(key) for key in before.role_keys(role)] if is_kept else []
        return change_delegation(before, role, [*kept, *keys], now, dropped=dropped)

    _prepare(config, out, change)


def _empty_repository(config: Path) -> TrustRepository:
    repository = open_repository(config)
    if repository.exists:
        raise SettingsError(
            f"{repository.directory} holds a repository already; change it with: fedge-fleet trust rotate, delegate"
        )
    return repository


def _instruction_key(config: Path) -> EllipticCurvePublicKey:
    """The public half of this fleet's instruction key, which is made where there is none."""
    from fleet.instruction_key import InstructionKey
    from fleet.settings import load_fleet_settings

    return InstructionKey(load_fleet_settings(config).data_dir).current().public_key()


def _say_prepared(out: Path) -> None:
    from fleet.trust.ceremony import read_change
    from fleet.trust.words import change_words, missing_words

    change = read_change(out)
    say_lines(change_words(change))
    say_lines(["to be signed:", *(f"  {line}" for line in missing_words(change))])
    say(f"carry {out} to each of them: fedge-fleet trust sign {out} --key ...")


def _signing_key(path: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from fleet.trust.key_files import load_public_key

    key = load_public_key(path)
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(
            f"{path} is a P-256 key; who signs metadata has an Ed25519 key: fedge-fleet trust keys create"
        )
    return key


def _families(named: Iterable[str]) -> dict[str, list[Ed25519PublicKey]]:
    """``motor=release.pub.pem`` → family and keys; the same family twice has two keys."""
    found: dict[str, list[Ed25519PublicKey]] = {}
    for text in named:
        family, is_pair, path = text.partition("=")
        if not is_pair:
            raise SettingsError(f"--family {text!r} is not of the form NAME=release.pub.pem")
        found.setdefault(family, []).append(_signing_key(Path(path)))
    return found
