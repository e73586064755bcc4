"""``fedge-aggregator``: the service, and what people do with it.

Exit codes: 0 done; 1 a run that was waited for did not complete; 2 something the person has to mend, said in one line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from aggregator.commands.connection import Ca, TokenFile, Url, open_client
from aggregator.commands.models import model_commands
from runtime.errors import FedgeError
from runtime.printable import printable
from runtime.version import version_option
from service.logs import log_of_a_command
from service.plant import PlantOption
from service.token_commands import ListedRows, token_commands

__all__ = ["main"]

HELP = "Learn together: training runs over Flower, signing keys, the first release."

cli = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=HELP)
keys_cli = typer.Typer(no_args_is_help=True, help="Release signing keys.")
cli.add_typer(keys_cli, name="keys")

Config = Annotated[Path, typer.Option("--config", help="aggregator.toml")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]


def main() -> None:
    """Entry point of the console script."""
    log_of_a_command()
    cli()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except FedgeError as error:
        print(f"fedge-aggregator: {printable(str(error))}", file=sys.stderr)
        raise typer.Exit(2) from None


@contextmanager
def _token_rows(config: Path) -> Iterator[ListedRows]:
    from aggregator.settings import load_aggregator_settings
    from aggregator.tokens import DATABASE, TokenStore

    with (
        closing(TokenStore(load_aggregator_settings(config).data_dir / DATABASE, time.time)) as store,
        store.rows() as rows,
    ):
        yield rows


cli.add_typer(token_commands(_token_rows, prefix="ao_", told=_one_line_errors()), name="tokens")
cli.add_typer(model_commands(_one_line_errors()), name="model")


@cli.callback()
def of_every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=version_option("fedge-aggregator"),
            is_eager=True,
            help="Print the version and leave",
        ),
    ] = False,
) -> None:
    """What is said before a command."""


@cli.command()
@_one_line_errors()
def serve(
    config: Config,
    json_logs: Annotated[bool, typer.Option("--json-logs/--plain-logs", help="form of the log")] = True,
) -> None:
    """Run the aggregator until SIGTERM."""
    # Imported here: the other commands need neither Flower nor the API.
    from aggregator.app import build_aggregator
    from aggregator.app import serve as run_service
    from aggregator.settings import load_aggregator_settings
    from service.logs import configure_logging

    settings = load_aggregator_settings(config)
    configure_logging(as_json=json_logs)
    asyncio.run(run_service(build_aggregator(settings)))


@cli.command("check-config")
@_one_line_errors()
def check_config(config: Config) -> None:
    """Check aggregator.toml and the files it names without starting anything."""
    from aggregator.family_folder import Families
    from aggregator.settings import load_aggregator_settings
    from aggregator.settings_files import check_files

    settings = load_aggregator_settings(config)
    check_files(settings)
    families = ", ".join(Families(settings.families, settings.families_dir)) or "none yet"
    print(f"{config} is valid: tenant {settings.tenant}, families {families}, listens on {settings.listen}")


@cli.command()
@_one_line_errors()
def identity(
    config: Config,
    out: Annotated[Path | None, typer.Option("--out", help="write it there instead of printing it")] = None,
) -> None:
    """Print the public key that devices pin as flower.aggregator_key; makes the key where there is none yet."""
    from aggregator.identity import open_identity
    from aggregator.settings import load_aggregator_settings
    from protocol.identity import fingerprint, public_key_pem
    from runtime.durable_files import write_durably

    public = open_identity(load_aggregator_settings(config).data_dir).public_key()
    if out is None:
        print(public_key_pem(public).decode(), end="")
        return
    write_durably(out, public_key_pem(public))
    print(f"{out}: SHA-256 {fingerprint(public)}; devices name this file as flower.aggregator_key")


@cli.command()
@_one_line_errors()
def train(
    family: Annotated[str, typer.Option("--family", help="a family that aggregator.toml configures")],
    url: Url = None,
    ca: Ca = None,
    token_file: TokenFile = None,
    plant: PlantOption = None,
    reason: Annotated[str, typer.Option("--reason")] = "a person asked for it",
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=0, help="0: make the fleet's prior anew, train nothing")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="stay until the run is over")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="the same request under the same key is one run")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a training run."""
    from aggregator.run_tables import follow_run
    from service.client import new_key

    asked = {"family": family, "reason": reason, "rounds": rounds}
    with open_client(url, ca, token_file, plant) as client:
        run = client.post("/v1/training-runs", asked, key=idempotency_key or new_key())
        if wait:
            run = follow_run(client, run["id"], quiet=as_json)
    print(json.dumps(run) if as_json else printable(f"{run['id']} {run['state']}: {run['detail']}"))
    if wait and run["state"] != "COMPLETED":
        raise typer.Exit(1)


@cli.command()
@_one_line_errors()
def runs(
    url: Url = None,
    ca: Ca = None,
    token_file: TokenFile = None,
    plant: PlantOption = None,
    run_id: Annotated[str | None, typer.Argument(help="one run in full")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="ask for the end of RUN_ID")] = False,
    family: Annotated[str | None, typer.Option("--family")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="most runs; 0: all")] = 100,
    as_json: AsJson = False,
) -> None:
    """List training runs, or show one with its rounds."""
    from aggregator.run_tables import print_run, print_runs

    with open_client(url, ca, token_file, plant) as client:
        if run_id is None:
            answer = {"items": list(client.pages("/v1/training-runs", {"family": family}, limit))}
            if limit and len(answer["items"]) == limit:
                print(f"these are {limit}, and there may be more: --limit 0 gives all", file=sys.stderr)
        elif cancel:
            answer = client.post(f"/v1/training-runs/{run_id}:cancel")
        else:
            answer = client.get(f"/v1/training-runs/{run_id}")
    if as_json:
        print(json.dumps(answer))
    elif run_id is None:
        print_runs(answer["items"])
    else:
        print_run(answer)


@cli.command()
@_one_line_errors()
def privacy(
    config: Annotated[
        Path | None, typer.Option("--config", help="aggregator.toml: shows what its ledger holds")
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="needed where several families are configured")
    ] = None,
    release: Annotated[
        Path | None, typer.Option("--release", help="a bundle: shows the claim signed into it")
    ] = None,
    release_key: Annotated[
        Path | None, typer.Option("--release-key", help="public key of --release, PEM")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what training has cost the devices in privacy; with --config and --release also whether the ledger bears it out."""
    import msgspec

    from aggregator.commands.privacy import shown_claim

    shown = shown_claim(config, family, release, release_key)
    print(
        msgspec.json.encode(shown.claim).decode() if as_json else shown.text,
        end="" if not as_json else "\n",
    )


@cli.command("accept-restored")
@_one_line_errors()
def accept_restored(config: Config) -> None:
    """Say that you know what privacy was spent after the backup that this aggregator came back from: budgeted families train again."""
    from aggregator.settings import load_aggregator_settings
    from service.restored_note import accept_restored_note

    print(accept_restored_note(load_aggregator_settings(config).data_dir))


@cli.command("verify-release")
@_one_line_errors()
def verify_release(
    bundle: Annotated[Path, typer.Argument(help="a .fedge bundle")],
    release_key: Annotated[Path, typer.Option("--release-key", help="public key that signed it, PEM")],
    ledger: Annotated[
        Path, typer.Option("--ledger", help="privacy.sqlite of the aggregator, or a copy of it")
    ],
) -> None:
    """Work out from the ledger what a release claims of privacy, statement by statement; exit status 1 where one does not agree."""
    from aggregator.commands.verification import verified_release

    found = verified_release(bundle, release_key, ledger)
    print(found.text)
    if not found.agrees:
        raise typer.Exit(1)


@cli.command()
@_one_line_errors()
def release(
    bundle: Annotated[Path, typer.Argument(help="a .fedge bundle")],
    release_key: Annotated[Path, typer.Option("--release-key", help="public key that signed it, PEM")],
    as_json: AsJson = False,
) -> None:
    """Show what a release says about itself: float against int8, sizes, where it comes from."""
    import msgspec

    from aggregator.commands.releases import shown_release

    shown = shown_release(bundle, release_key)
    print(msgspec.json.encode(shown).decode() if as_json else shown.text)


@cli.command("edge-tpu")
@_one_line_errors()
def edge_tpu(
    file: Annotated[Path, typer.Argument(help="a .fedge bundle or a .tflite model")],
    release_key: Annotated[
        Path | None, typer.Option("--release-key", help="public key of a bundle, PEM")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="compile with edgetpu_compiler, write the model here")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check whether a Coral Edge TPU could run a model, and compile it for one; exit status 1 where it is not ready."""
    from aggregator.commands.releases import shown_edge_tpu

    shown = shown_edge_tpu(file, release_key, out)
    print(json.dumps(shown.figures()) if as_json else shown.text)
    if not shown.readiness.is_ready:
        raise typer.Exit(1)


@keys_cli.command("create")
@_one_line_errors()
def create_key(out: Annotated[Path, typer.Option("--out", help="e.g. release.key")]) -> None:
    """Make an Ed25519 release key (mode 0600) and its public half beside it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from aggregator.release_keys import create_key_files

    public = create_key_files(out, Ed25519PrivateKey.generate())
    print(
        f"{out} (keep it secret, keep a copy offline) and {public} (name it when the signed repository is made)"
    )


@cli.command("initial-release")
@_one_line_errors()
def initial_release(
    features: Annotated[
        list[Path],
        typer.Option(
            "--features", help="NPZ: machine name → rows (n, features), or CSV: one machine; may be repeated"
        ),
    ],
    spec: Annotated[Path, typer.Option("--spec", help="family.toml")],
    signing_key: Annotated[Path, typer.Option("--signing-key", help="Ed25519 PEM")],
    out: Annotated[Path, typer.Option("--out", help="bundle to write, e.g. v1.fedge")],
    version: Annotated[int, typer.Option("--version", min=1, help="above 1 to replace a first release")] = 1,
    delimiter: Annotated[str, typer.Option("--delimiter", help="what parts the cells of a CSV")] = ",",
    accept_blind: Annotated[
        bool, typer.Option("--accept-blind", help="sign a detector that hardly sees small disturbances")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train version 1 centrally on reference recordings; needs no server. What is no detector is not signed."""
    from aggregator.exporter import SigningExporter
    from aggregator.family_file import load_spec
    from aggregator.initial_release import train_release
    from aggregator.recordings import read_recordings
    from aggregator.release_keys import read_private_key
    from aggregator.run_tables import training_progress
    from runtime.durable_files import write_durably

    family, key = load_spec(spec), read_private_key(signing_key, "--signing-key")
    machines = read_recordings(features, family.features.spec(), delimiter=delimiter)
    for note in machines.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    with training_progress(quiet=as_json) as progress:
        made = train_release(
            family,
            machines.rows,
            SigningExporter(key),
            created_at=time.time(),
            version=version,
            accepts_blind=accept_blind,
            progress=progress,
        )
    write_durably(out, made.content)
    figures = {name: value for name, value in vars(made).items() if name != "content"}
    figures |= {"file": str(out), "bytes": len(made.content)}
    for warning in made.warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    print(json.dumps(figures) if as_json else _sentence(figures))


@cli.command("release-again")
@_one_line_errors()
def release_again(
    bundle: Annotated[Path, typer.Argument(help="a .fedge bundle")],
    release_key: Annotated[Path, typer.Option("--release-key", help="public key that signed it, PEM")],
    signing_key: Annotated[Path, typer.Option("--signing-key", help="Ed25519 PEM that signs it from now on")],
    version: Annotated[int, typer.Option("--version", min=1, help="its new number")],
    out: Annotated[Path, typer.Option("--out", help="bundle to write, e.g. v9.fedge")],
) -> None:
    """Sign an old release's content anew under a new number: to go back to it, or because its key was stolen."""
    from aggregator.commands.publishing import sign_again

    print(sign_again(bundle, release_key, signing_key, version, out, now=time.time()))


@cli.command()
@_one_line_errors()
def publish(
    bundle: Annotated[Path, typer.Argument(help="a .fedge bundle that signing_key signed")],
    config: Config,
) -> None:
    """Hand a release to the fleet and list it in the signed repository; doing so again changes nothing."""
    from aggregator.commands.publishing import publish_bundle

    publish_bundle(bundle, config)
    print(f"{bundle} is published and listed; roll it out with: fedge-fleet rollouts create")


def _sentence(figures: dict[str, Any]) -> str:
    return (
        f"{figures['release']} from {figures['windows']} windows of {figures['machines']} machines: loss "
        f"{figures['loss_before']:.4g} → {figures['loss_after']:.4g}, held out {figures['held_out_loss']:.4g} ({figures['method']}); "
        f"{figures['detector']}; trust radius {figures['trust_radius']:.3g}; threshold {figures['threshold']:.4g}; sight {figures['sight']:.0%}; int8 error {figures['int8_error']:.2g};"
        f" {figures['bytes']} bytes in {figures['file']}"
    )
