"""Training runs and releases to MLflow: runs with their rounds, registered models with their bundles, aliases champion and canary.

It only tells. What MLflow says of a model is never read back: releases are approved and rolled out in the fleet alone.

* An experiment ``fedge/<family>`` has a run for each training run that has ended, known again by its tag ``fedge.run``.
* A registered model ``fedge.<family>`` has a version for each release, known again by its tag ``fedge.release``; its source is the signed
  bundle, kept as an artifact of the run that made it.
* ``champion`` is the release that most devices shall run, ``canary`` that of a rollout which is under way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from fleet.bridges.place import Place
from fleet.bridges.port import BridgeError
from fleet.client.client import FleetClient
from fleet.rollouts.states import RolloutState
from fleet.views.releases import ReleaseView
from fleet.views.rollouts import RolloutSummary
from service.client import ApiClient
from service.errors import ClientError

__all__ = ["MlflowBridge", "open_mlflow"]

AT_ONCE: Final = 20
"""Things carried by one step."""

ALL: Final = 10_000
KNOWN_IN_A_ROW: Final = 200
"""Runs that are carried already, after which no other is looked for: runs are listed by their beginning, and end in another order."""

CANARY: Final = frozenset({RolloutState.RUNNING, RolloutState.PAUSED})
ENDED: Final = {
    "COMPLETED": "FINISHED",
    "REJECTED_BY_GATE": "FINISHED",
    "CANCELED": "KILLED",
    "FAILED": "FAILED",
}


class MlflowBridge:
    """Implements `Bridge`.

    Args:
        fleet: its API.
        aggregator: its API; None: releases alone are told.
        mlflow: a client of MLflow (`open_mlflow`).
        place: which runs and releases are there.
    """

    def __init__(self, fleet: FleetClient, aggregator: ApiClient | None, mlflow: Any, place: Place) -> None:
        self._fleet, self._aggregator, self._mlflow, self._place = fleet, aggregator, mlflow, place

    def step(self) -> int:
        """See `Bridge`."""
        try:
            releases = list(self._fleet.listing(ReleaseView, "/v1/releases", {}, ALL))
            return self._carry_runs() + self._carry_releases(releases) + self._carry_aliases(releases)
        except (ClientError, BridgeError):
            raise
        except Exception as error:
            # MLflow's client lets through what its HTTP library, its server and its store raise
            raise BridgeError(
                f"MLflow did not take it: {type(error).__name__}: {str(error)[:300]}"
            ) from error

    def close(self) -> None:
        """See `Bridge`; nothing is held."""

    def _carry_runs(self) -> int:
        if self._aggregator is None:
            return 0
        names = list(islice(self._new_runs(self._aggregator), AT_ONCE))
        for name in names:
            self._tell_run(self._aggregator.get(f"/v1/training-runs/{name}"))
        self._remember("runs", names)
        return len(names)

    def _new_runs(self, aggregator: ApiClient) -> Iterator[str]:
        """Runs that have ended and are not carried, the newest first."""
        known = set(self._place.get("runs", []))
        in_a_row = 0
        for run in aggregator.pages("/v1/training-runs", {}, ALL):
            if run["id"] in known:
                in_a_row += 1
                if in_a_row == KNOWN_IN_A_ROW:
                    return
            elif run["state"] in ENDED:
                in_a_row = 0
                yield run["id"]

    def _tell_run(self, run: dict[str, Any]) -> str:
        """The run in MLflow; it is made where it is not there."""
        experiment = self._experiment(run["family"])
        if (there := self._find_run(experiment, run["id"])) is not None:
            return there
        tags = {
            "fedge.family": run["family"],
            "fedge.state": run["state"],
            "fedge.trigger": run["trigger"],
            "fedge.reason": run["reason"],
            "fedge.detail": run["detail"],
            "fedge.release": run["release"] or "",
            "mlflow.user": run["requested_by"],
        }
        made = self._mlflow.create_run(
            experiment,
            start_time=int(run["created_at"] * 1000),
            run_name=run["id"],
            tags={name: str(value)[:5000] for name, value in tags.items()},
        ).info.run_id
        for name in ("base_release", "planned_rounds", "mode", "protection"):
            if run.get(name) is not None:
                self._mlflow.log_param(made, name, str(run[name])[:500])
        for metric, value, step, at in _figures(run):
            self._mlflow.log_metric(made, metric, value, timestamp=int(at * 1000), step=step)
        self._mlflow.set_terminated(
            made, ENDED[run["state"]], end_time=int((run["ended_at"] or run["updated_at"]) * 1000)
        )
        # last: a run without it was not told to its end, and is told anew
        self._mlflow.set_tag(made, "fedge.run", run["id"])
        return str(made)

    def _carry_releases(self, releases: Sequence[ReleaseView]) -> int:
        known = set(self._place.get("releases", []))
        new = [release for release in releases if release.id not in known][:AT_ONCE]
        for release in new:
            self._tell_release(release)
        self._remember("releases", [release.id for release in new])
        return len(new)

    def _tell_release(self, release: ReleaseView) -> None:
        model = f"fedge.{release.family}"
        if self._find_version(model, release.id) is not None:
            return
        if not list(self._mlflow.search_registered_models(f"name = '{model}'", max_results=1)):
            self._mlflow.create_registered_model(model, tags={"fedge.family": release.family})
        run = self._run_of(release)
        with tempfile.TemporaryDirectory(prefix="fedge-bundle-") as folder:
            bundle = Path(folder) / f"{release.family}-{release.version}.bundle"
            bundle.write_bytes(self._fleet.download(release.bundle_path))
            self._mlflow.log_artifact(run, str(bundle), "bundle")
        self._mlflow.create_model_version(
            model,
            source=f"runs:/{run}/bundle",
            run_id=run,
            description=f"release {release.id}, SHA-256 {release.sha256}",
            tags={
                "fedge.release": release.id,
                "fedge.sha256": release.sha256,
                "fedge.signed_by": release.signed_by,
                "fedge.published_by": release.published_by,
                **{
                    f"fedge.{name}": str(value)[:5000]
                    for name, value in release.provenance.items()
                    if value is not None
                },
            },
        )

    def _run_of(self, release: ReleaseView) -> str:
        """The run of MLflow that stands for what made a release; a release that no training run made has one of its own."""
        experiment = self._experiment(release.family)
        name = str(release.provenance.get("training_run") or f"release {release.id}")
        if (there := self._find_run(experiment, name)) is not None:
            return there
        made = self._mlflow.create_run(
            experiment, run_name=name, tags={"fedge.family": release.family}
        ).info.run_id
        self._mlflow.set_terminated(made, "FINISHED")
        self._mlflow.set_tag(made, "fedge.run", name)
        return str(made)

    def _carry_aliases(self, releases: Sequence[ReleaseView]) -> int:
        wanted: dict[str, str] = {}
        run_now = [one for one in releases if one.withdrawn_at is None and one.desired_devices]
        for release in sorted(run_now, key=lambda one: (one.desired_devices, one.version)):
            wanted[f"fedge.{release.family}@champion"] = release.id
        for rollout in self._fleet.listing(RolloutSummary, "/v1/rollouts", {}, 200):
            if rollout.state in CANARY:
                wanted.setdefault(f"fedge.{rollout.family}@canary", rollout.release)
        told: dict[str, str] = dict(self._place.get("aliases", {}))
        changed = 0
        for name in told.keys() - wanted.keys():
            model, _, alias = name.partition("@")
            self._mlflow.delete_registered_model_alias(model, alias)
            del told[name]
            changed += 1
        for name, release_id in wanted.items():
            model, _, alias = name.partition("@")
            # a release that is not carried yet gets its alias when it is
            if (
                told.get(name) != release_id
                and (version := self._find_version(model, release_id)) is not None
            ):
                self._mlflow.set_registered_model_alias(model, alias, version)
                told[name] = release_id
                changed += 1
        if changed:
            self._place.note(aliases=told)
        return changed

    def _experiment(self, family: str) -> str:
        name = f"fedge/{family}"
        found = self._mlflow.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._mlflow.create_experiment(name))

    def _find_run(self, experiment: str, name: str) -> str | None:
        found = self._mlflow.search_runs([experiment], f"tags.`fedge.run` = '{name}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _find_version(self, model: str, release: str) -> str | None:
        for version in self._mlflow.search_model_versions(f"name = '{model}'", max_results=ALL):
            if version.tags.get("fedge.release") == release:
                return str(version.version)
        return None

    def _remember(self, what: str, names: Sequence[str]) -> None:
        if names:
            self._place.note(**{what: [*self._place.get(what, []), *names]})


def _figures(run: dict[str, Any]) -> Iterator[tuple[str, float, int, float]]:
    """Metric, value, round, and when: of every round that counts, and of the run's end."""
    for one in run.get("rounds", []):
        if one["void"]:
            continue
        at = one["started_at"] + one["seconds"]
        yield "seconds", one["seconds"], one["number"], at
        for name in ("participants", "refused", "lost"):
            yield name, float(len(one[name])), one["number"], at
        for name in ("loss_before", "loss_after", "examples"):
            if one.get(name) is not None:
                yield name, float(one[name]), one["number"], at
    last = run.get("finished_rounds") or 0
    for name, value in run.get("evaluation", {}).items():
        yield name, float(value), last, run["updated_at"]


def open_mlflow(uri: str) -> Any:
    """A client of the MLflow server at `uri`; raises BridgeError where it is not installed."""
    try:
        import mlflow
    except ImportError:
        raise BridgeError("the bridge to MLflow needs mlflow-skinny: pip install 'fedge[mlflow]'") from None
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
