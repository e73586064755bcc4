"""The Typer application behind ``fedge-agent``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.aggregator_trust import AggregatorTrust
from edge_agent.app import run as run_agent
from edge_agent.commands.status_table import print_status
from edge_agent.enrolled import check_settings, load_enrolled
from edge_agent.fleet_client import FleetEndpoint
from edge_agent.identity_key import check_chip
from edge_agent.pinned_tls import pinned_context
from edge_agent.process_sight import ProcessState, sight_from_here
from edge_agent.settings import load_agent_settings
from edge_agent.sources.factory import open_source
from edge_agent.status import read_status, status_document
from edge_agent.update_trust import read_root
from runtime.version import version_option

__all__ = ["application"]

Config = Annotated[Path, typer.Option("--config", help="agent.toml of this device")]

application = typer.Typer(
    name="fedge-agent",
    help="Watch one machine: detect locally, learn together, install better models.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


@application.callback()
def of_every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=version_option("fedge-agent"),
            is_eager=True,
            help="Print the version and leave",
        ),
    ] = False,
) -> None:
    """What is said before a command."""


@application.command()
def run(config: Config) -> int:
    """Run the agent until SIGTERM."""
    return run_agent(config)


@application.command()
def enrol(
    config: Config,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="where a person must approve: end with exit status 75")
    ] = False,
) -> int:
    """Enrol this device with its fleet, once, with the claim token that [fleet] names.

    Where a person must approve it, this waits and says so. `fedge-agent run` may watch meanwhile, and asks by itself.
    """
    from edge_agent.commands.enrolling import enrol_and_wait

    return enrol_and_wait(load_agent_settings(config), is_patient=not no_wait)


@application.command()
def join(
    file: Annotated[Path, typer.Argument(help="what `fedge device add` made for this device")],
    source: Annotated[
        str | None,
        typer.Option(
            help="where windows come from: rec.csv, - or a serial port, opc.tcp://…, mqtts://…, module:function, plc.toml"
        ),
    ] = None,
    *,
    answer: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE: how the recording is read; may be given again")
    ] = None,
    machine: Annotated[
        str | None, typer.Option(help="which machine of a recording that holds several")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=1e-6, max=1e6, help="of a recording: 1 plays it as it was")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="the device's folder  [default: ./NAME; with systemd /var/lib/fedge/NAME]"),
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="what kind of device this is  [default: its board or processor]")
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="of a sealed file; else it is asked for")
    ] = None,
    background: Annotated[bool, typer.Option("--background", help="leave once it watches")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="no systemd unit, even as root; until Ctrl-C")
    ] = False,
) -> int:
    """Join the fleet with one file: enrol, write agent.toml, start, and say when it watches. Again: it goes on.

    Exit status 3: the recording can be read in several ways; answer, and join again.
    """
    from edge_agent.commands.joining import Wishes, join_device

    wishes = Wishes(
        source=source,
        answers=answer or (),
        machine=machine,
        speed=speed,
        state=state,
        hardware=hardware,
        passphrase_file=passphrase_file,
        is_background=background,
        is_foreground=foreground,
    )
    return join_device(file, wishes)


@application.command()
def status(
    config: Config, as_json: Annotated[bool, typer.Option("--json", help="the status file as it is")] = False
) -> int:
    """Show what the agent on this device is doing; exit status 1 where it does not run, 3 where it hangs."""
    settings = load_agent_settings(config)
    found, sight = read_status(settings.paths.status), sight_from_here(settings)
    state = sight.state(found)
    if as_json:
        is_running = state is ProcessState.RUNS
        print(json.dumps({**status_document(found), "running": is_running, "process": state.value}))
    else:
        print_status(found, sight)
    return {ProcessState.RUNS: 0, ProcessState.GONE: 1, ProcessState.HANGS: 3}[state]


@application.command()
def privacy(
    config: Config,
    release: Annotated[
        Path | None,
        typer.Option("--release", help="a .fedge file: does its signed claim agree with this account?"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of words")] = False,
) -> int:
    """Show what this device has given to training runs, and what it may still give; exit status 1 where a release says otherwise."""
    from edge_agent.commands import privacy_account
    from edge_agent.privacy.release_check import Verdict

    settings = load_agent_settings(config)
    if release is not None:
        manifest, findings = privacy_account.release_findings(settings, release)
        if as_json:
            told = [{"verdict": finding.verdict.value, "words": finding.words} for finding in findings]
            print(json.dumps({"release": manifest.release, "findings": told}))
        else:
            privacy_account.print_findings(manifest, findings)
        return int(any(finding.verdict is Verdict.DIFFERS for finding in findings))
    account = privacy_account.account_of(settings)
    if as_json:
        print(json.dumps(account))
    else:
        privacy_account.print_account(account)
    return 0


@application.command()
def recommission(
    config: Config,
    afresh: Annotated[
        bool, typer.Option("--afresh", help="forget the scale so far, instead of pooling")
    ] = False,
) -> int:
    """Learn this machine's scale again from the windows to come; the one so far goes on until then, and is kept.

    For a machine that is well in a regime that its first windows did not show, or (--afresh) that was rebuilt.
    """
    from edge_agent.commands.recommissioning import ask_for_commissioning

    print(ask_for_commissioning(load_agent_settings(config), is_afresh=afresh))
    return 0


@application.command("retry-parked")
def retry_parked(config: Config) -> int:
    """Offer events again that were parked because connections to the broker ended with them."""
    from edge_agent.commands.outbox_commands import retry_parked as retry

    print(retry(load_agent_settings(config)))
    return 0


@application.command("take-over-events")
def take_over_events(config: Config) -> int:
    """Deliver what this machine saw under its former name as events of its present one; see docs/agent.md."""
    from edge_agent.commands.outbox_commands import take_over_events as take_over

    print(take_over(load_agent_settings(config)))
    return 0


@application.command("trust-release")
def trust_release(config: Config) -> int:
    """Let training stay near the release that runs here, by the word of this device's owner; see docs/privacy.md."""
    from edge_agent.learner.anchor import trust_active_release

    settings = load_agent_settings(config)
    print(trust_active_release(settings.paths))
    return 0


@application.command("check-config")
def check_config(config: Config) -> int:
    """Check agent.toml and every file it names, and whether state and release fit the source; nothing is started.

    A machine on a wire is asked once: what it says now, or why it does not, is shown, and decides nothing.
    """
    from edge_agent.commands.columns_check import first_look, misfits

    settings = load_agent_settings(config)
    read_root(settings.trust.root)
    source = open_source(settings.source)
    print("\n".join([*getattr(source, "summary", ()), *first_look(source)]))
    source.close()
    if settings.paths.enrolment.exists():
        check_settings(settings, load_enrolled(settings.paths.enrolment))
    if settings.identity is not None:
        check_chip(settings.identity)
    if settings.fleet is not None:
        FleetEndpoint(url=settings.fleet.url, ca_file=settings.fleet.ca_file)
    if settings.mqtt is not None and settings.mqtt.ca_file is not None:
        pinned_context(settings.mqtt.ca_file, "mqtt.ca_file")
    if settings.flower is not None:
        AggregatorTrust(settings)
        pinned_context(settings.flower.ca_file, "flower.ca_file")
    if found := misfits(settings.paths, source.spec):
        for misfit in found:
            print(f"{config}: {misfit}")
        return 1
    print(
        f"{config} is fine: family {settings.family}, {source.spec.feature_count} features, state in {settings.state_dir}"
    )
    return 0
