"""``/releases``: each with the whole chain, from the run that made it to what people say of its alarms; and its withdrawal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote, urlencode

import msgspec
from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from fleet.aggregator_answers import TrainingRun
from fleet.aggregator_client import Said
from fleet.api import releases as api
from fleet.api.dependencies import Services, get_services
from fleet.dashboard.access import signed_in
from fleet.dashboard.notices import see_other
from fleet.dashboard.rendering import page, power
from fleet.lookups.release_lineage import Lineage, read_lineage
from fleet.views.releases import ReleaseView
from protocol.manifest import Provenance
from protocol.privacy_claim import PrivacyClaim
from service.paging import After
from service.roles import Caller, Role

__all__ = ["router", "verdict_link"]

router = APIRouter(prefix="/releases", include_in_schema=False)

ROWS: Final = 50
Viewer = Annotated[Caller, Depends(signed_in())]
Operator = Annotated[Caller, Depends(signed_in(Role.OPERATOR))]
Shared = Annotated[Services, Depends(get_services)]
Family = Annotated[str, Path(max_length=64)]


@dataclass(frozen=True, kw_only=True)
class Link:
    """One link of the chain: what it is, in a sentence, and where more of it stands. `tone` empty: nothing is known of it."""

    name: str
    says: str
    where: str = ""
    tone: str = "good"


@router.get("")
def list_releases(
    request: Request,
    caller: Viewer,
    services: Shared,
    family: Annotated[str | None, Query(max_length=64)] = None,
    after: After = None,
) -> Response:
    """All releases, by family and version."""
    found = api.list_releases(caller, services, family, after, ROWS)
    return page(
        request,
        "releases.html",
        title="Releases",
        live=("rollout",),
        releases=[(one, _made(one)) for one in found.items],
        family=family,
        next_page=_address(family=family, after=found.next_cursor) if found.next_cursor else None,
        first_page=_address(family=family) if after else None,
    )


def _address(**query: str | None) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"/releases?{urlencode(given)}" if given else "/releases"


@router.get("/{family}/{version}")
async def show_release(
    family: Family, version: int, request: Request, caller: Viewer, services: Shared
) -> Response:
    """One release: run, rounds, devices, ε, int8 error, signature, where it runs now, verdicts since."""
    release, lineage = await run_in_threadpool(_read, family, version, caller, services)
    made = _made(release)
    run: Said[TrainingRun] = (
        await services.aggregator.get(TrainingRun, "training-runs", made.training_run)
        if made.training_run
        else Said()
    )
    return page(
        request,
        "release.html",
        title=release.id,
        live=("rollout", "device"),
        release=release,
        lineage=lineage,
        chain=_chain(release, lineage, run.what),
        run=run,
        made=made,
        evaluation=sorted(made.evaluation.items()),
        model=release.manifest.get("model", {}),
        detector=release.manifest.get("detector", "network"),
    )


def _read(family: str, version: int, caller: Caller, services: Services) -> tuple[ReleaseView, Lineage]:
    release = api.show_release(family, version, caller, services)
    with services.database.read() as session:
        return release, read_lineage(session, family, version)


def _made(release: ReleaseView) -> Provenance:
    """Where it comes from, as it was signed; of a manifest that is older than a field, that field's default."""
    return msgspec.convert(release.provenance, Provenance)


def _chain(release: ReleaseView, lineage: Lineage, run: TrainingRun | None) -> list[Link]:
    made = _made(release)
    rounds = Link(name="Rounds", says=f"{made.rounds} of {made.algorithm or 'training'}")
    devices = Link(name="Devices", says=f"{made.participants:,} took part, with {made.examples:,} windows")
    return [
        _run_link(made, run),
        rounds if made.rounds else Link(name="Rounds", says="none: it was made from recordings", tone="off"),
        devices if made.participants else Link(name="Devices", says="none took part", tone="off"),
        _privacy_link(made.privacy),
        _int8_link(made.evaluation),
        _signature_link(release),
        Link(
            name="Runs on",
            says=f"{lineage.running:,} devices, {lineage.online:,} of them heard now; {release.desired_devices:,} shall run it",
            where=f"/devices?{urlencode({'query': f'release=={release.id}'})}",
            tone="good" if lineage.running else "off",
        ),
        verdict_link(lineage),
    ]


def _run_link(made: Provenance, run: TrainingRun | None) -> Link:
    if not made.training_run:
        return Link(name="Made by", says=f"{made.trigger or 'hand'}: no training run", tone="off")
    why = f"{run.trigger}: {run.reason}" if run is not None else made.trigger
    says = f"{made.training_run} ({why})" if why else made.training_run
    return Link(name="Made by", says=says, where=f"/training/{quote(made.training_run, safe='')}")


def _privacy_link(claim: PrivacyClaim | None) -> Link:
    if claim is None:
        return Link(name="Privacy", says="no claim: no device's data are in it by training", tone="off")
    server, outside = claim.server.epsilon, claim.release.epsilon
    if server is None and outside is None:
        return Link(
            name="Privacy", says="ε unlimited: sums without noise, which no number limits", tone="wait"
        )
    told = ["unlimited" if one is None else f"{one:.3g}" for one in (server, outside)]
    return Link(
        name="Privacy",
        says=f"ε {told[0]} towards the aggregator, {told[1]} towards whoever sees it, at δ {power(claim.delta)}",
    )


def _int8_link(evaluation: Mapping[str, float]) -> Link:
    error = evaluation.get("int8_error", evaluation.get("int8_output_error"))
    if error is None:
        return Link(name="int8", says="its error against float was not measured", tone="off")
    return Link(name="int8", says=f"error {error:.3g} against float")


def _signature_link(release: ReleaseView) -> Link:
    if release.withdrawn_at is not None:
        return Link(name="Signature", says=f"withdrawn: {release.withdrawn_reason}", tone="bad")
    signed = f"signed by {release.signed_by[:12]}…"
    if release.listed_at is None:
        return Link(name="Signature", says=f"{signed}, not listed: no device takes it", tone="wait")
    approved = f", approved by {release.approved_by}" if release.approved_by else ", approved by nobody"
    return Link(name="Signature", says=f"{signed}, listed{approved}")


def verdict_link(lineage: Lineage) -> Link:
    """What people said of the alarms of a release, as the last link of its chain."""
    found = lineage.verdicts
    if found is None:
        return Link(
            name="Verdicts since", says="nobody has judged an alarm of it", tone="off", where="/anomalies"
        )
    state = found.state
    says = f"{state.true_alarms} of {state.judged} alarms were true"
    if found.drifted_since is not None:
        return Link(
            name="Verdicts since", says=f"{says}, and fewer than before", tone="bad", where="/precision"
        )
    return Link(name="Verdicts since", says=says, where="/precision")


@router.get("/{family}/{version}/withdraw")
def ask_withdrawal(
    family: Family, version: int, request: Request, caller: Operator, services: Shared
) -> Response:
    """What withdrawing would do, and to how many devices not."""
    return _ask(request, api.show_release(family, version, caller, services))


def _ask(request: Request, release: ReleaseView, wrong: str = "", status: int = 200) -> Response:
    return page(
        request, "release_withdraw.html", title=release.id, release=release, wrong=wrong, status=status
    )


@router.post("/{family}/{version}/withdraw")
def withdraw(
    *,
    family: Family,
    version: int,
    request: Request,
    caller: Operator,
    services: Shared,
    reason: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """Take it back, for a reason."""
    if not reason.strip():
        release = api.show_release(family, version, caller, services)
        return _ask(request, release, "say why, for whoever would roll it out or build upon it", 422)
    asked = api.Withdrawal(confirm=f"{family}/{version}", reason=reason.strip())
    view = api.withdraw(family=family, version=version, asked=asked, caller=caller, services=services)
    return see_other(
        f"/releases/{view.id}", f"{view.id} is withdrawn; {view.desired_devices} devices shall still run it"
    )
