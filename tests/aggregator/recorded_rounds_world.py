"""Real rounds of real learner processes over TLS with a recorder before the aggregator, and what can be read from the bytes.

Half of the devices mask as production does; each of the others leaves out something of its own (`ROLES`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flower_world as world
import msgspec
import numpy as np
import pytest
from aggregator_recorder import (
    LONG,
    SHORT,
    Recorded,
    Recorder,
    count_windows,
    everything,
    found_scalars,
    found_windows,
    masked_words,
    number_windows,
)
from masked_rounds_world import masked_collector
from numpy.typing import NDArray
from secrecy_statistics import chi_squared_of_bytes, correlation
from waiting import AMPLE_S, wait_until

import aggregator.flower.server
from aggregator.flower.server import FlowerRun, FlowerServer, FlowerServerSettings
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.reports import QuorumMissedError
from edge_agent.sample_buffer import SampleBuffer
from models.architecture import Architecture, initial_parameters, join_parameters, split_parameters
from protocol.identity import fingerprint
from protocol.names import DeviceId
from protocol.questions import AssessQuestion, FitQuestion, Question, assess_layout, fit_layout
from protocol.secure_sum.masks import MaskGenerator, expand_mask, pack_words, unpack_words
from protocol.secure_sum.unmasking import Unmasking

HIDDEN = 3400
ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, HIDDEN, 6))
"""Wide: its updates are longer than twice the state of the Mersenne Twister (19 937 bits)."""

PROFILE = msgspec.structs.replace(world.PROFILE, trust_radius=200.0)
"""So wide that a model whose neurons are all off lies within it: the worst that a device could be shown."""

FIT_LAYOUT = fit_layout(ARCHITECTURE.parameter_count)
ASSESS_LAYOUT = assess_layout(ARCHITECTURE.tensor_count, ARCHITECTURE.feature_count)
TRAINING, ASSESSMENT, SILENT = 0, 1, 2
HONEST = [DeviceId(f"press-{i}") for i in range(4)]
BARE, SELF_MASKED, TWISTED, SHORT_MASKED = MUTANTS = [DeviceId(f"press-{i}") for i in range(4, 8)]
ROLES = {
    BARE: "NothingHidden",
    SELF_MASKED: "NoPairMasks",
    TWISTED: "MersenneTwisterMasks",
    SHORT_MASKED: "OneByteOfMask",
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One round of one cohort: what reached the aggregator, and what each device had to hide."""

    bits: int
    requests: list[Recorded]
    masked: dict[DeviceId, NDArray[np.uint32]]
    packed: dict[DeviceId, bytes]
    words: dict[DeviceId, NDArray[np.uint32]]
    answers: dict[DeviceId, NDArray[np.float32]]
    self_masks: dict[DeviceId, bytes]

    def opened(self, device: DeviceId) -> NDArray[np.uint32]:
        """Its words once the aggregator has taken off the self-mask, whose seed it is given in every round."""
        masked = self.masked[device]
        seed = self.self_masks[device]
        opened = masked - expand_mask(seed, len(masked), generator=MaskGenerator.AES_128_CTR)
        return opened & np.uint32((1 << self.bits) - 1)

    def as_sent(self, words: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Words as they lie side by side on the road, four bytes at a time."""
        content = pack_words(words, self.bits)
        return np.frombuffer(content[: len(content) // 4 * 4], np.uint32)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Three rounds of each cohort, and body bytes by device: as the recorder has them, and as the device counted."""

    honest: list[Seen]
    mutant: list[Seen]
    samples: dict[DeviceId, NDArray[np.float32]]
    keys: dict[DeviceId, str]
    recorded_bytes: dict[DeviceId, int]
    counted_bytes: dict[DeviceId, int]


def silent_parameters() -> NDArray[np.float32]:
    """A model whose neurons are all off, as a curious aggregator would send it: updates are zeros and masks stand alone."""
    parts = split_parameters(ARCHITECTURE, initial_parameters(ARCHITECTURE, 3))
    parts[1] = np.full_like(parts[1], -2.0)
    return join_parameters(ARCHITECTURE, parts)


PARAMETERS = initial_parameters(ARCHITECTURE, 3)
ROUNDS: list[tuple[Question, dict[str, NDArray[np.float32]]]] = [
    (
        FitQuestion(
            run_id="run-1",
            round_number=number,
            layout_sha256=ARCHITECTURE.layout_sha256,
            profile_sha256=PROFILE.sha256,
        ),
        {"parameters": parameters},
    )
    for number, parameters in ((1, PARAMETERS), (2, silent_parameters()))
]
ROUNDS.insert(
    ASSESSMENT,
    (
        AssessQuestion(
            run_id="run-1", layout_sha256=ARCHITECTURE.layout_sha256, profile_sha256=PROFILE.sha256
        ),
        {"candidate": PARAMETERS},
    ),
)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    root = tmp_path_factory.mktemp("recorded")
    recorder, seeds = Recorder(), {}
    reconstruct = Unmasking._reconstruct

    def noting(unmasking: Any, collected: Any, is_secret: Any) -> Any:
        secrets = reconstruct(unmasking, collected, is_secret)
        seeds.update(secrets)
        return secrets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "ARCHITECTURE", ARCHITECTURE)
        patch.setattr(world, "RUN_LEARNER", Path(__file__).with_name("run_noting_learner.py"))
        patch.setattr(world, "PROFILE", PROFILE)
        patch.setattr(
            aggregator.flower.server, "FleetApp", recorder.around(aggregator.flower.server.FleetApp)
        )
        patch.setattr(Unmasking, "_reconstruct", noting)
        yield play(root, recorder, seeds)


def play(root: Path, recorder: Recorder, seeds: dict[DeviceId, bytes]) -> Record:
    """All rounds of both cohorts, one server, eight learner processes."""
    tls, bundle = world.make_tls(root), world.build_bundle()
    settings = FlowerServerSettings(tls_cert=tls.cert, tls_key=tls.key, data_dir=root / "aggregator")
    samples = {}
    with world.FamilyFleet().serving(tls) as fleet, FlowerServer(settings, world.IDENTITY) as server:
        devices = {}
        for index, name in enumerate(HONEST + MUTANTS):
            device = world.make_device(root, name, bundle, tls, rows=0, fleet=fleet)
            (device.directory / "role.txt").write_text(ROLES.get(name, "DeviceRole"))
            samples[name] = stuck_sensor(device, index)
            devices[name] = device
        server.sync_roster({device.id: device.public_key for device in devices.values()})
        run, accounts = server.start_run(), PrivacyAccounts(root / "privacy.sqlite", {}, now=time.time)
        with world.learners(list(devices.values()), server.port):
            everybody = len(devices)
            wait_until(lambda: len(server.online_devices()) == everybody, "all online")
            seen = [
                [
                    see(server, run, accounts, [devices[name] for name in names], number, recorder, seeds)
                    for number in range(len(ROUNDS))
                ]
                for names in (HONEST, MUTANTS)
            ]
        accounts.close()
    return Record(
        honest=seen[0],
        mutant=seen[1],
        samples=samples,
        keys={name: key_of(device) for name, device in devices.items()},
        recorded_bytes={
            name: sum(len(request.body) for request in recorder.requests if request.key == key_of(device))
            for name, device in devices.items()
        },
        counted_bytes={
            name: msgspec.json.decode(device.paths.learner_stats.read_bytes())["sent_bytes"]
            for name, device in devices.items()
        },
    )


def key_of(device: world.Device) -> str:
    """What its requests name it by."""
    return fingerprint(device.key.public_key())


def stuck_sensor(device: world.Device, index: int) -> NDArray[np.float32]:
    """Fill its buffer with one sample over and over: then its update gives the sample away, however it is trained."""
    sample = np.random.default_rng([7, index]).normal(size=6).astype(np.float32)
    buffer = SampleBuffer(device.paths.buffer, world.COLUMNS, 1 << 20)
    for at in range(2115 + 5 * index):
        buffer.append(sample, float(at), float(at))
    buffer.close()
    return sample


def see(
    server: FlowerServer,
    run: FlowerRun,
    accounts: PrivacyAccounts,
    cohort: list[world.Device],
    number: int,
    recorder: Recorder,
    seeds: dict[DeviceId, bytes],
) -> Seen:
    """One round, as production runs it."""
    question, arrays = ROUNDS[number]
    seeds.clear()
    before = len(recorder.requests)
    collector = masked_collector(server, run, cohort, accounts)
    asked = CohortQuestion(
        question=question,
        arrays=arrays,
        layout=FIT_LAYOUT if isinstance(question, FitQuestion) else ASSESS_LAYOUT,
        admission=admit_update(norm_limit=10.0),
    )
    # What devices that mask badly add up to is no sum of anything; it was sent all the same.
    with contextlib.suppress(QuorumMissedError):
        collector.collect(
            asked,
            Cohort(devices=tuple(device.id for device in cohort), quorum=4, enough=4),
            deadline_s=AMPLE_S,
        )
    requests = recorder.requests[before:]
    by_key = masked_words(requests)
    noted = {device.id: np.load(device.directory / f"noted-{number + 1}.npz") for device in cohort}
    packed = {device.id: by_key[key_of(device)] for device in cohort}
    # As many bits as fill the bytes that were sent: a sum of counts has smaller words than one of updates.
    bits = 8 * len(packed[cohort[0].id]) // len(noted[cohort[0].id]["words"])
    words = {name: found["words"] & np.uint32((1 << bits) - 1) for name, found in noted.items()}
    return Seen(
        bits=bits,
        requests=requests,
        packed=packed,
        masked={name: unpack_words(packed[name], len(words[name]), bits) for name in packed},
        words=words,
        answers={name: found["answer"] for name, found in noted.items()},
        self_masks=dict(seeds),
    )


def secrets_of(seen: Seen, device: DeviceId, number: int) -> list[NDArray[Any]]:
    """Every vector that would give the device away: its answer, per example, what it trained, and the fixed point."""
    answer = seen.answers[device]
    vectors: list[NDArray[Any]] = [answer, answer.astype(np.float64), seen.words[device]]
    if number != ASSESSMENT:
        parts = FIT_LAYOUT.unpack(answer)
        update = parts["update"]
        vectors += [update.astype(np.float32), (PARAMETERS + update).astype(np.float32)]
    return vectors


def scalars_of(seen: Seen, device: DeviceId, number: int) -> dict[str, float]:
    """Its count, its losses summed and per example, and the fixed point of the large ones; an update has none of these."""
    if number != ASSESSMENT:
        return {}
    parts = ASSESS_LAYOUT.unpack(seen.answers[device])
    count = float(parts["examples"][0])
    losses = {name: float(parts[name][0]) for name in parts if name.endswith("loss")}
    means = {f"mean {name}": value / count for name, value in losses.items()}
    words = {f"word {i}": float(word) for i, word in enumerate(seen.words[device][:8]) if word > 1 << 16}
    return {"examples": count, **losses, **means, **words}


def scalars_sent(seen: Seen, device: DeviceId, key: str, number: int, *, masked: bool) -> list[str]:
    """Which of them the device's own requests hold, with or without its masked words."""
    own = [request for request in seen.requests if request.key == key]
    sent = everything(own, without=() if masked else (seen.packed[device],))
    return found_scalars(sent, scalars_of(seen, device, number))


def traces(seen: Seen, device: DeviceId, number: int) -> dict[str, int]:
    """How many windows of the device's secrets were sent."""
    # Words that are no whole number of bytes are read once more as numbers.
    read = b"".join(words.tobytes() for words in seen.masked.values()) if seen.bits < 32 else b""
    secrets, sent = secrets_of(seen, device, number), everything(seen.requests) + read
    found = {"numbers": found_windows(sent, number_windows(secrets), SHORT)}
    if number == ASSESSMENT:
        found["counts"] = found_windows(sent, count_windows(secrets), LONG)
    return found


def inverted(words: NDArray[np.uint32], sample: NDArray[np.float32]) -> float:
    """Mean cosine, over the hidden neurons, of the sample with what each neuron's gradient says it was."""
    gradient = words[: 7 * HIDDEN].astype(np.int32).astype(np.float64)
    weights, biases = gradient[: 6 * HIDDEN].reshape(6, HIDDEN), gradient[6 * HIDDEN :]
    is_on = np.abs(biases) > 0
    guesses = weights[:, is_on] / biases[is_on]
    cosines = sample @ guesses / (np.linalg.norm(guesses, axis=0) * np.linalg.norm(sample) + 1e-300)
    return float(np.mean(cosines))


def is_hidden(seen: Seen, shown: NDArray[np.uint32], plain: NDArray[np.uint32]) -> bool:
    """Uniform bytes, no correlation."""
    is_uniform = abs(chi_squared_of_bytes(seen.as_sent(shown))) < 6
    return bool(is_uniform and correlation(shown, plain) < 4 / np.sqrt(len(plain)))
