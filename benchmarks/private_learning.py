"""What privacy costs in quality: the same training without it, with central Gaussian noise, and with ours. One JSON object a line.

``mnist``: a hundred devices of 600 digits each train a 196-32-10 network (digits averaged to 14 x 14); 50 take part in a
round on average (true Poisson sampling). Reported: test accuracy.
``pronostia``: seventeen bearings train an autoencoder on the first 15 % of their lives, all in every round. Reported: share
of windows that raise a false alarm in mid-life, share of windows over threshold at the end of life, AUC between the two.
Thresholds are each bearing's own. Fewer false alarms are no gain where fewer ends are detected: at z = 8 noise has ruined
the model, and three seeds cannot tell mechanisms apart there (``standard_error``).

    python benchmarks/private_learning.py [mnist|pronostia|both] [--quick] [--seeds 3] [--plot figure.svg]
                                                                     data: FEDGE_DATA, default ../shared/data

The controls are ``untrained`` (the start as it is) and ``none`` (no clip, no noise). Three mechanisms see the same devices,
samples, batches and start for a seed: ``central`` (clip; one Gaussian of deviation z·c added to the sum: a trusted server),
``ours 20`` and ``ours 32`` (every device encodes with `protocol.privacy`; the words are summed modulo 2^bits, as the secure
sum would hand them over). Unit of privacy: a device.

ε_server: the server knows who took part; ρ = 1/2z_r², ξ = τ·d composed over the most rounds any device took part in.
ε_release: an outsider who sees the models alone; Poisson-sampled Gaussian at integer orders. Both by dp-accounting.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dp_accounting
import numpy as np
from detection_recipe import Recipe, Weights, area_under_curve, fit, initial, score
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray

from models.standardiser import fit_standardiser
from protocol.privacy.clipping import clip_to_ball
from protocol.privacy.mechanism import PrivacyParameters, decode, encode

Flat = NDArray[np.float64]
ORDERS = [*range(2, 129), 256, 512]
TARGET_POINTS = 0.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a world is trained; `rate` is each device's chance of taking part in a round."""

    rounds: int
    rate: float
    clip: float
    delta: float
    server_rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class World:
    """One seed of one task: `train(parameters, devices, round) -> updates (devices, d)`; `judge(parameters) -> figures`."""

    name: str
    plan: Plan
    devices: int
    start: Flat
    train: Callable[[Flat, NDArray[np.int64], int], Flat]
    judge: Callable[[Flat], dict[str, float]]


@dataclass(kw_only=True)
class Account:
    """What happened to the devices, for the two epsilons."""

    participations: NDArray[np.int64]
    least_multiplier: float = math.inf
    worst_gap: float = 0.0

    def epsilons(self, plan: Plan) -> tuple[float, float]:
        """(ε_server, ε_release) of what happened; infinite without noise."""
        z = self.least_multiplier
        if math.isinf(z):
            return math.inf, math.inf
        server = RdpAccountant(ORDERS)
        most = int(self.participations.max())
        server.compose(dp_accounting.ZCDpEvent(rho=0.5 / z**2, xi=self.worst_gap), most)
        release = RdpAccountant(ORDERS)
        event = dp_accounting.PoissonSampledDpEvent(plan.rate, dp_accounting.GaussianDpEvent(z))
        release.compose(event, plan.rounds)
        return server.get_epsilon(plan.delta), release.get_epsilon(plan.delta)


Aggregate = Callable[[Flat, int], Flat]
"""(updates of the round (n, d), round) -> their sum with whatever noise the mechanism adds, (d,)."""


def aggregate_plainly(updates: Flat, number: int, *, account: Account) -> Flat:
    del number, account
    return updates.sum(axis=0)


def aggregate_centrally(
    updates: Flat, number: int, *, account: Account, clip: float, multiplier: float, seed: int
) -> Flat:
    account.least_multiplier = multiplier
    noise = np.random.default_rng((seed, number, round(1000 * multiplier))).normal(
        0, multiplier * clip, updates.shape[1]
    )
    return np.sum([clip_to_ball(u, clip) for u in updates], axis=0) + noise


def aggregate_privately(
    updates: Flat, number: int, *, account: Account, clip: float, multiplier: float, bits: int
) -> Flat:
    cohort, dimension = updates.shape
    parameters = PrivacyParameters(
        dimension=dimension, clip=clip, noise_multiplier=multiplier, cohort=cohort, bits=bits
    )
    account.least_multiplier = min(account.least_multiplier, parameters.realised_multiplier)
    # τ of arXiv:2102.06387v4: how far a sum of discrete Gaussians is from one.
    local = parameters.local_lattice_std
    gap = 10 * sum(math.exp(-2 * math.pi**2 * local**2 * j / (j + 1)) for j in range(1, cohort))
    account.worst_gap = max(account.worst_gap, gap * parameters.vector_length)
    seed = number.to_bytes(4, "big")
    total = np.zeros(parameters.vector_length, np.uint64)
    for update in updates:
        total += encode(update, parameters, os.urandom, rotation_seed=seed)
    words = (total % np.uint64(1 << bits)).astype(np.uint32)
    return decode(words, parameters, survivors=cohort, rotation_seed=seed) * cohort


def learn(world: World, mechanism: str, multiplier: float, seed: int) -> tuple[dict[str, float], Account]:
    """Train with one mechanism; the figures are means over the models of the last fifth of the rounds."""
    plan = world.plan
    if mechanism == "untrained":
        plan = replace(plan, rate=0.0)
    account = Account(participations=np.zeros(world.devices, np.int64))
    private = functools.partial(aggregate_privately, account=account, clip=plan.clip, multiplier=multiplier)
    aggregate: Aggregate = {
        "untrained": functools.partial(aggregate_plainly, account=account),
        "none": functools.partial(aggregate_plainly, account=account),
        "central": functools.partial(
            aggregate_centrally, account=account, clip=plan.clip, multiplier=multiplier, seed=seed
        ),
        "ours 20": functools.partial(private, bits=20),
        "ours 32": functools.partial(private, bits=32),
    }[mechanism]
    sampler, parameters = np.random.default_rng((seed, 0)), world.start.copy()
    figures: list[dict[str, float]] = []
    for number in range(plan.rounds):
        cohort = np.flatnonzero(sampler.random(world.devices) < plan.rate)
        if len(cohort):
            account.participations[cohort] += 1
            total = aggregate(world.train(parameters, cohort, number), number)
            # A fixed divisor: dividing by the real number of participants would tell it.
            parameters = parameters + plan.server_rate * total / (plan.rate * world.devices)
        if number >= plan.rounds * 4 // 5:
            figures.append(world.judge(parameters))
    return {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}, account


def mnist_world(seed: int, plan: Plan, path: Path, *, hidden: int = 32, devices: int = 100) -> World:
    rng = np.random.default_rng((seed, 7))
    with np.load(path, allow_pickle=False) as data:
        train_x, test_x = (_pool(data[k]) for k in ("X_train", "X_test"))
        train_y, test_y = data["y_train"].astype(np.int64), data["y_test"].astype(np.int64)
    shards = rng.permutation(len(train_x)).reshape(devices, -1)
    sizes = (train_x.shape[1] * hidden, hidden, hidden * 10, 10)
    start = np.concatenate(
        [
            rng.normal(0, math.sqrt(2 / train_x.shape[1]), sizes[0]),
            np.zeros(sizes[1]),
            rng.normal(0, math.sqrt(2 / hidden), sizes[2]),
            np.zeros(sizes[3]),
        ]
    )
    cuts = np.cumsum(sizes)[:-1]

    def layers(flat: Flat, copies: int) -> list[NDArray[np.float32]]:
        w1, b1, w2, b2 = (np.repeat(p[None].astype(np.float32), copies, 0) for p in np.split(flat, cuts))
        return [w1.reshape(copies, -1, hidden), b1[:, None], w2.reshape(copies, hidden, 10), b2[:, None]]

    def train(flat: Flat, cohort: NDArray[np.int64], number: int) -> Flat:
        """One epoch of batches of 20 at learning rate 0.1, all devices of the cohort at once."""
        w1, b1, w2, b2 = weights = layers(flat, len(cohort))
        order = np.random.default_rng((seed, number, 2)).permuted(shards[cohort], axis=1)
        for batch in order.reshape(len(cohort), -1, 20).transpose(1, 0, 2):
            x, hot = train_x[batch], np.eye(10, dtype=np.float32)[train_y[batch]]
            h = np.maximum(x @ w1 + b1, 0)
            logits = h @ w2 + b2
            p = np.exp(logits - logits.max(-1, keepdims=True))
            delta = (p / p.sum(-1, keepdims=True) - hot) * np.float32(0.1 / 20)
            back = (delta @ w2.transpose(0, 2, 1)) * (h > 0)
            w2 -= h.transpose(0, 2, 1) @ delta
            b2 -= delta.sum(1, keepdims=True)
            w1 -= x.transpose(0, 2, 1) @ back
            b1 -= back.sum(1, keepdims=True)
        return np.concatenate([w.reshape(len(cohort), -1) for w in weights], axis=1) - flat

    def judge(flat: Flat) -> dict[str, float]:
        w1, b1, w2, b2 = layers(flat, 1)
        logits = np.maximum(test_x @ w1[0] + b1[0], 0) @ w2[0] + b2[0]
        return {"accuracy": float((logits.argmax(1) == test_y).mean())}

    return World(name="mnist", plan=plan, devices=devices, start=start, train=train, judge=judge)


def _pool(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Digits of 28 x 28 averaged to 14 x 14, in [0, 1], shape (n, 196)."""
    pooled = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4), dtype=np.float32) / 255
    return pooled.reshape(len(images), -1).astype(np.float32)


def pronostia_world(seed: int, plan: Plan, path: Path) -> World:
    recipe = Recipe()
    with np.load(path, allow_pickle=False) as data:
        raw = [data[name] for name in data.files if name != "feature_names"]
    healthy_rows = [int(0.15 * len(r)) for r in raw]
    lives = [fit_standardiser(r[:h]).apply(r) for r, h in zip(raw, healthy_rows, strict=True)]
    width = lives[0].shape[1]
    begin = initial((width, *recipe.hidden, width), np.random.default_rng((seed, 7)))
    shapes = [w.shape for w in begin]
    cuts = np.cumsum([w.size for w in begin])[:-1]

    def layers(flat: Flat) -> Weights:
        parts = np.split(flat.astype(np.float32), cuts)
        return [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]

    def join(weights: Weights) -> Flat:
        return np.concatenate([w.ravel() for w in weights]).astype(np.float64)

    def train(flat: Flat, cohort: NDArray[np.int64], number: int) -> Flat:
        weights, updates = layers(flat), []
        for device in cohort:
            rng = np.random.default_rng((seed, number, int(device)))
            healthy = lives[device][: healthy_rows[device]]
            # From a start that noise has ruined, training may overflow; such a device has nothing to say.
            with np.errstate(over="ignore", invalid="ignore"):
                update = join(fit(weights, healthy, recipe, recipe.epochs, rng)) - flat
            updates.append(update if np.isfinite(update).all() else np.zeros_like(flat))
        return np.array(updates)

    def judge(flat: Flat) -> dict[str, float]:
        weights, rows = layers(flat), []
        for life, healthy in zip(lives, healthy_rows, strict=True):
            limit = float(np.quantile(score(weights, life[:healthy]), recipe.quantile)) * recipe.margin
            middle = score(weights, life[healthy : len(life) // 2])
            end = score(weights, life[int(0.95 * len(life)) :])
            rows.append(((middle > limit).mean(), (end > limit).mean(), area_under_curve(middle, end)))
        false_alarms, detected, area = np.mean(rows, axis=0)
        return {"false alarms": float(false_alarms), "end detected": float(detected), "AUC": float(area)}

    return World(name="pronostia", plan=plan, devices=len(lives), start=join(begin), train=train, judge=judge)


PLANS = {
    "mnist": Plan(rounds=40, rate=0.5, clip=0.5, delta=1e-3),
    "pronostia": Plan(rounds=20, rate=1.0, clip=0.2, delta=1e-2),
}
MECHANISMS = ("central", "ours 20", "ours 32")
PANELS = ("mnist: accuracy", "pronostia: false alarms", "pronostia: end detected")


def measure(
    name: str, make: Callable[[int], World], multipliers: Sequence[float], seeds: int
) -> list[dict[str, object]]:
    """All mechanisms at all multipliers; prints each figure as soon as it is known."""
    lines: list[dict[str, object]] = []
    worlds = [make(seed) for seed in range(seeds)]
    central: dict[tuple[float, str], list[float]] = {}
    private = [(mechanism, z) for z in multipliers for mechanism in MECHANISMS]
    for mechanism, multiplier in [("untrained", 0.0), ("none", 0.0), *private]:
        results = [learn(world, mechanism, multiplier, seed) for seed, world in enumerate(worlds)]
        epsilons = [account.epsilons(worlds[0].plan) for _, account in results]
        for figure in results[0][0]:
            values = [figures[figure] for figures, _ in results]
            mean = float(np.mean(values))
            line: dict[str, object] = {
                "name": f"{name}: {figure}",
                "mechanism": mechanism,
                "noise_multiplier": multiplier,
                "epsilon_server": _finite(max(e for e, _ in epsilons)),
                "epsilon_release": _finite(max(e for _, e in epsilons)),
                "delta": worlds[0].plan.delta,
                "value": round(mean, 4),
                "seeds": [round(v, 4) for v in values],
            }
            if mechanism == "central":
                central[multiplier, figure] = values
            elif multiplier:
                line |= _points_to_central(values, central[multiplier, figure])
            print(json.dumps(line), flush=True)
            lines.append(line)
    return lines


def _points_to_central(ours: Sequence[float], central: Sequence[float]) -> dict[str, float]:
    """Points of a percentage, signed: what encoding costs beside the noise; and how sure so few seeds can be of it."""
    difference = 100 * (np.mean(ours) - np.mean(central))
    spread = 100 * math.sqrt((np.var(ours) + np.var(central)) / max(len(ours) - 1, 1))
    return {
        "points_to_central": round(float(difference), 2),
        "standard_error": round(spread, 2),
        "target_points": TARGET_POINTS,
    }


def _finite(epsilon: float) -> float | None:
    return round(epsilon, 2) if math.isfinite(epsilon) else None


def plot(lines: Sequence[dict[str, object]], path: Path) -> None:
    """Quality against ε_server, a panel a task, a line a mechanism, the level without privacy dotted."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [panel for panel in PANELS if any(x["name"] == panel for x in lines)]
    figure, axes = plt.subplots(1, len(shown), figsize=(5 * len(shown), 4), squeeze=False)
    for axis, panel in zip(axes[0], shown, strict=True):
        mine = [x for x in lines if x["name"] == panel]
        for mechanism, marker in zip(MECHANISMS, "o^v", strict=True):
            points = sorted((x["epsilon_server"], x["value"]) for x in mine if x["mechanism"] == mechanism)
            axis.plot(*zip(*points, strict=True), marker=marker, label=mechanism, alpha=0.7)
        axis.axhline(
            next(x["value"] for x in mine if x["mechanism"] == "none"), ls=":", c="k", label="no privacy"
        )
        axis.set(
            xscale="log",
            xlabel=f"ε towards the server (δ = {mine[0]['delta']})",
            title=panel,
        )
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", nargs="?", choices=("mnist", "pronostia", "both"), default="both")
    parser.add_argument("--quick", action="store_true", help="one multiplier, two seeds, few rounds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--multipliers", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--plot", type=Path, help="write a figure here (.svg or .png)")
    arguments = parser.parse_args()
    root = Path(os.environ.get("FEDGE_DATA", "../shared/data"))
    multipliers, seeds = arguments.multipliers, arguments.seeds
    if arguments.quick:
        multipliers, seeds = [1.0], 2
    lines: list[dict[str, object]] = []
    for name, make, file in (
        ("mnist", mnist_world, "mnist/mnist.npz"),
        ("pronostia", pronostia_world, "pronostia/pronostia_features.npz"),
    ):
        if arguments.task not in (name, "both"):
            continue
        if not (root / file).exists():
            print(
                f"no data at {root / file}: set FEDGE_DATA to the folder that holds {file}", file=sys.stderr
            )
            continue
        plan = replace(PLANS[name], rounds=10) if arguments.quick else PLANS[name]
        lines += measure(name, functools.partial(make, plan=plan, path=root / file), multipliers, seeds)
    if lines and arguments.plot:
        plot(lines, arguments.plot)


if __name__ == "__main__":
    main()
