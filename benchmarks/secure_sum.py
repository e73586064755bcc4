"""What a secure sum costs, beside Flower's own functions and beside the machine's limit. One JSON object a line.

    python benchmarks/secure_sum.py [--quick | --ten-thousand] [--only NAME ...]

Each line: name, value, unit, `peer` or `bound` in the same unit, and their ratio. With a `peer` (Flower's genuine functions, run
here in turns with ours) the ratio is peer ÷ ours: above 1 ours is that many times better. With a `bound` it is ours ÷ bound; `target`
is what it may be. The bound of a device is the time the mask generator alone takes for (k + 1)·4·d bytes, measured in the same
run. Rounds are played with both real roles, every message encoded and decoded, every sum compared bit for bit with the plain one.
A device's figure is the median over devices of all its stages, fixed point included; the server's is the sum of all it does.
Times are processor time of this process, in one thread: a machine shared with others does not lengthen them as it does the wall
clock. ``--quick`` plays smaller rounds; ``--ten-thousand`` adds a round of 10 000 devices, which takes some ten minutes to play.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

# Before NumPy and Flower are imported: one thread, and no phoning home.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
os.environ |= {"FLWR_DISABLE_UPDATE_CHECK": "1"}

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flower_secagg_device import FlowerDevice
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from played_round import Round

from models.architecture import Architecture
from protocol.questions import ASSESS, REFIT_KINDS, answer_layout
from protocol.secure_answers import exact_word_bits, make_encoding
from protocol.secure_sum.masks import MaskGenerator, add_masks, packed_bytes
from protocol.secure_sum.shamir import split_many
from protocol.sum_terms import SumTerms
from protocol.training import TrainingSettings

AES = MaskGenerator.AES_128_CTR


def show(
    name: str,
    value: float,
    unit: str,
    *,
    peer: float | None = None,
    bound: float | None = None,
    target: float | None = None,
) -> None:
    """Print one figure; rounded to what the clock can tell."""
    ratio = peer / value if peer is not None else value / bound if bound is not None else None
    line = {
        "name": name,
        "value": value,
        "unit": unit,
        "peer": peer,
        "bound": bound,
        "ratio": ratio,
        "target": target,
    }
    print(
        json.dumps(
            {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items() if v is not None}
        ),
        flush=True,
    )


def best_ms(*calls: Callable[[], object], repeats: int) -> list[float]:
    """The best time of each call in ms; they take turns, so that a busy neighbour on this machine disturbs all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, own in zip(calls, times, strict=True):
            started = time.process_time()
            call()
            own.append(1e3 * (time.process_time() - started))
    return [min(own) for own in times]


class Generator:
    """The mask generator alone, without adding anything: what a mask cannot be cheaper than."""

    def __init__(self) -> None:
        self._zeros, self._out = bytes(1 << 18), bytearray(1 << 18)

    def run(self, length: int) -> None:
        """Make `length` bytes of AES-128-CTR key stream in chunks that stay in the cache."""
        stream = Cipher(algorithms.AES(bytes(16)), modes.CTR(bytes(16))).encryptor()
        for _ in range(-(-length // len(self._zeros))):
            stream.update_into(self._zeros, self._out)

    def bytes_per_ms(self) -> float:
        """Throughput now: the best of nine runs of 16 MiB."""
        (run_ms,) = best_ms(lambda: self.run(1 << 24), repeats=9)
        return (1 << 24) / run_ms


# --- single steps -------------------------------------------------------------------------------------------------------


def mask_a_million_words() -> None:
    """One mask on 1 M words, beside Flower's generator and addition, and beside the generator alone."""
    seed, words, generator = os.urandom(32), np.zeros(1_000_000, np.uint32), Generator()
    plain = [np.zeros(1_000_000, np.int64)]
    ours_ms, peer_ms, bound_ms = best_ms(
        lambda: add_masks(words, added=[seed], generator=AES),
        lambda: parameters_addition(plain, pseudo_rand_gen(seed, 1 << 32, [(1_000_000,)])),
        lambda: generator.run(4_000_000),
        repeats=15,
    )
    show("mask_1m_words", ours_ms, "ms", peer=peer_ms)
    show("mask_1m_words_beside_the_generator", ours_ms, "ms", bound=bound_ms)


def share_both_secrets() -> None:
    """Splitting both secrets of a device for n = 100, t = 51."""
    secrets = [os.urandom(32), os.urandom(32)]
    ours_ms, peer_ms = best_ms(
        lambda: split_many(secrets, threshold=51, points=range(1, 101), random_bytes=os.urandom),
        lambda: [create_shares(secret, 51, 100) for secret in secrets],
        repeats=3,
    )
    show("shamir_both_secrets_n100_t51", ours_ms, "ms", peer=peer_ms)


def upload_bytes() -> None:
    """What a device sends for 1 M parameters."""
    flowers = FlowerDevice(neighbours=3, parameters=1_000_000)
    flowers.run()
    for bits, target in ((32, None), (20, 0.65)):
        packed = packed_bytes(1_000_000, bits)
        show(f"upload_1m_words_{bits}_bits", packed, "B", peer=flowers.uploaded_bytes)
        show(f"upload_1m_words_{bits}_bits_beside_float32", packed, "B", bound=4_000_000, target=target)


def refit_bytes() -> None:
    """What a device of a cohort of 1,000 sends in a run that makes the fleet's prior anew, of F features: three questions, and the assessment."""
    for features, target in ((46, 1.0), (128, None)):
        architecture = Architecture(kind="dense-autoencoder", layers=(features, 16, 8, 16, features))
        total = 0
        for kind in (*REFIT_KINDS, ASSESS):
            layout = answer_layout(
                kind,
                parameter_count=architecture.parameter_count,
                tensor_count=architecture.tensor_count,
                feature_count=features,
            )
            most = TrainingSettings().maximum_examples
            terms = SumTerms(
                run_id="r",
                question=kind,
                round_number=1,
                devices=1000,
                word_bits=exact_word_bits(layout, devices=1000, maximum_examples=most),
                norm_limit=10.0,
                maximum_examples=most,
            )
            sent = packed_bytes(make_encoding(layout, terms).word_count, terms.word_bits)
            total += sent
            show(f"upload_{kind.partition('.')[2]}_f{features}", sent, "B")
        show(f"upload_refit_f{features}", total, "B", bound=40_000, target=target)


# --- whole rounds of ours -----------------------------------------------------------------------------------------------


def device_beside_flower(*, neighbours: int, parameters: int, repeats: int) -> None:
    """A device with k neighbours, all stages, beside Flower's and beside its masks alone."""
    generator, peer = Generator(), FlowerDevice(neighbours=neighbours, parameters=parameters)
    ours_ms, peer_ms, bound_ms = [], [], []
    for _ in range(repeats):
        played = Round(devices=neighbours + 1, parameters=parameters, dropped=(neighbours + 1) // 10)
        played.play()
        ours_ms.append(played.device_ms)
        peer_ms.append(peer.run())
        bound_ms.append((neighbours + 1) * 4 * parameters / generator.bytes_per_ms())
    name = f"device_k{neighbours}_d{parameters}"
    show(name, min(ours_ms), "ms", peer=min(peer_ms), target=8.0)
    # In a small round the keys and signatures weigh more than the masks; the target is one for a million words.
    target = 2.5 if parameters >= 1_000_000 else None
    show(f"{name}_beside_its_masks", min(ours_ms), "ms", bound=min(bound_ms), target=target)


def whole_round(
    *,
    devices: int,
    parameters: int,
    dropped: int,
    device_bound_ms: float | None = None,
    server_bound_s: float | None = None,
    word_bits: int = 32,
) -> None:
    """Device and server of one round."""
    played = Round(devices=devices, parameters=parameters, dropped=dropped, word_bits=word_bits)
    played.play()
    name = f"n{devices}_k{played.degree}_t{played.threshold}_d{parameters}_dropped{dropped}_{word_bits}bits"
    show(
        f"device_{name}",
        played.device_ms,
        "ms",
        bound=device_bound_ms,
        target=1.0 if device_bound_ms else None,
    )
    show(
        f"server_{name}",
        played.server_ms / 1e3,
        "s",
        bound=server_bound_s,
        target=1.0 if server_bound_s else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller rounds, under half a minute")
    parser.add_argument(
        "--ten-thousand", action="store_true", help="also a round of 10 000 devices, ten minutes"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="mask, shamir, upload, refit, device_k50, n100, ..."
    )
    options = parser.parse_args()
    show("generator_aes_128_ctr", Generator().bytes_per_ms() / 1e6, "GB/s")
    figures: dict[str, Callable[[], None]] = {
        "mask": mask_a_million_words,
        "shamir": share_both_secrets,
        "upload": upload_bytes,
        "refit": refit_bytes,
    }
    if options.quick:
        figures["device_k50"] = lambda: device_beside_flower(neighbours=50, parameters=100_000, repeats=1)
        figures["n30"] = lambda: whole_round(devices=30, parameters=100_000, dropped=3, word_bits=20)
        figures["n150"] = lambda: whole_round(devices=150, parameters=10_000, dropped=15)
    else:
        figures["device_k50"] = lambda: device_beside_flower(neighbours=50, parameters=1_000_000, repeats=3)
        figures["n100"] = lambda: whole_round(
            devices=100, parameters=100_000, dropped=0, device_bound_ms=40.0
        )
        figures["n100_20bits"] = lambda: whole_round(
            devices=100, parameters=100_000, dropped=10, word_bits=20
        )
        figures["n500"] = lambda: whole_round(devices=500, parameters=100_000, dropped=50, server_bound_s=1.2)
        figures["n1000"] = lambda: whole_round(devices=1000, parameters=10_000, dropped=100)
    if options.ten_thousand:
        figures["n10000"] = lambda: whole_round(devices=10_000, parameters=10_000, dropped=1000)
    for name, figure in figures.items():
        if not options.only or name in options.only:
            figure()


if __name__ == "__main__":
    main()
