"""What it would cost, in Python, to prove that a masked input is within its bounds. One JSON object a figure.

    make bench-peers          or python benchmarks/input_proofs.py [--quick], with `rbcl` of benchmarks/peers.txt installed

Ristretto255 through libsodium (`rbcl`), Pedersen commitments C = v·G + r·H, everything made non-interactive by Fiat and Shamir:

    bit         v is 0 or 1: one of two Schnorr proofs is simulated (Cramer, Damgård, Schoenmakers 1994); 96 bytes beside C's 32
    one-hot     every entry is a bit and all add up to 1: what a vote, or a histogram of one device's threshold, is
    range       v in [0, 2^b): b bits whose weighted commitments add up to C; an update clipped to 2^b steps is that in every entry
    binding     the sum of all commitments opens to the secure sum's own result and to the sum of the blindings, which travels in it
                as masked words: a device that proves one vector and masks another makes the round void; nobody learns which device it was

`bulletproof` figures are no measurement of a proof but our count of its group operations times the measured cost of one: no
maintained Python package has them. The size is that of the paper. Times are processor time, in one thread; each figure is the best of several runs.

Sources: Bell et al., "ACORN: Input Validation for Secure Aggregation", USENIX Security 2023 (eprint 2022/1461); Lycklama et al., "RoFL:
Robustness of Secure Federated Learning", arXiv:2107.03311v4; Roy Chowdhury et al., "EIFFeL: Ensuring Integrity for Federated Learning",
CCS 2022; Bünz et al., "Bulletproofs", IEEE S&P 2018, section 4.2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

try:
    import rbcl
except ImportError:
    # `make bench` runs every benchmark, and no machine of the fleet has this peer.
    print("input_proofs: needs rbcl, which `make bench-peers` installs; nothing is measured", file=sys.stderr)
    sys.exit(0)

ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Of the group."""
DOMAIN: Final = b"fedge/input-proof/v1"
UPDATE_ENTRIES: Final = 2502
"""Parameters of the autoencoder 46-16-8-16-46 of the poisoning benchmark, in round figures."""
UPDATE_BITS: Final = 16
SCORE_BINS: Final = 322
VOTE_BINS: Final = 64
COHORT: Final = 12
Result = TypeVar("Result")


def scalar(value: int) -> bytes:
    """A number modulo the group's order, as libsodium wants it."""
    return (value % ORDER).to_bytes(32, "little")


def times(value: int, point: bytes) -> bytes:
    """The multiple of a point, also where the value is 0."""
    return rbcl.crypto_scalarmult_ristretto255_allow_scalar_zero(scalar(value), point)


def times_base(value: int) -> bytes:
    """The multiple of G."""
    return rbcl.crypto_scalarmult_ristretto255_base_allow_scalar_zero(scalar(value))


add, subtract = rbcl.crypto_core_ristretto255_add, rbcl.crypto_core_ristretto255_sub
G: Final[bytes] = times_base(1)
H: Final[bytes] = rbcl.crypto_core_ristretto255_from_hash(hashlib.sha512(DOMAIN + b"/H").digest())
"""Nobody knows its logarithm to the base G: it is a hash."""


def commit(value: int, blinding: int) -> bytes:
    """The Pedersen commitment to a value."""
    blinded = times(blinding, H)
    return add(G, blinded) if value == 1 else add(times_base(value), blinded) if value else blinded


def total(points: Iterable[bytes]) -> bytes:
    """The sum of points."""
    result = bytes(32)
    for point in points:
        result = add(result, point)
    return result


def challenge(*points: bytes) -> int:
    """Fiat and Shamir's."""
    return int.from_bytes(hashlib.sha512(DOMAIN + b"".join(points)).digest(), "little") % ORDER


@dataclass(frozen=True)
class BitsProof:
    """That each commitment is one to 0 or to 1: 128 bytes a bit, and one challenge for all of them."""

    commitments: tuple[bytes, ...]
    challenge: int
    answers: tuple[tuple[int, int, int], ...]
    """Of each bit: the challenge of the statement that it is 0, and the answers for 0 and for 1."""

    @property
    def size(self) -> int:
        """In bytes."""
        return 32 + 128 * len(self.commitments)


def prove_bits(bits: Sequence[int], blindings: Sequence[int]) -> BitsProof:
    """Commit to bits and prove that they are bits."""
    commitments = tuple(map(commit, bits, blindings))
    drawn = [tuple(secrets.randbelow(ORDER) for _ in range(3)) for _ in bits]
    firsts = []
    for bit, commitment, (nonce, fake_challenge, fake_answer) in zip(bits, commitments, drawn, strict=True):
        other = subtract(commitment, G) if bit == 0 else commitment
        fake = subtract(times(fake_answer, H), times(fake_challenge, other))
        true = times(nonce, H)
        firsts += [true, fake] if bit == 0 else [fake, true]
    whole = challenge(*commitments, *firsts)
    answers = []
    for bit, blinding, (nonce, fake_challenge, fake_answer) in zip(bits, blindings, drawn, strict=True):
        own = (whole - fake_challenge) % ORDER
        answer = (nonce + own * blinding) % ORDER
        answers.append((own, answer, fake_answer) if bit == 0 else (fake_challenge, fake_answer, answer))
    return BitsProof(commitments, whole, tuple(answers))


def verify_bits(proof: BitsProof) -> bool:
    """Whether every commitment is one to 0 or 1."""
    firsts = []
    for commitment, (of_zero, for_zero, for_one) in zip(proof.commitments, proof.answers, strict=True):
        of_one = (proof.challenge - of_zero) % ORDER
        firsts.append(subtract(times(for_zero, H), times(of_zero, commitment)))
        firsts.append(subtract(times(for_one, H), times(of_one, subtract(commitment, G))))
    return challenge(*proof.commitments, *firsts) == proof.challenge


def prove_opening(point: bytes, blinding: int) -> tuple[int, int]:
    """That `point` is a commitment to 0: a Schnorr proof, 64 bytes."""
    nonce = secrets.randbelow(ORDER)
    asked = challenge(point, times(nonce, H))
    return asked, (nonce + asked * blinding) % ORDER


def verify_opening(point: bytes, proof: tuple[int, int]) -> bool:
    """Whether `point` is a commitment to 0."""
    asked, answer = proof
    return challenge(point, subtract(times(answer, H), times(asked, point))) == asked


@dataclass(frozen=True)
class OneHotProof:
    """That the entries are bits and add up to 1."""

    bits: BitsProof
    opening: tuple[int, int]

    @property
    def size(self) -> int:
        """In bytes."""
        return self.bits.size + 64


def prove_one_hot(entries: Sequence[int], blindings: Sequence[int]) -> OneHotProof:
    """Commit to a vector with one 1 and prove that it is one."""
    bits = prove_bits(entries, blindings)
    return OneHotProof(bits, prove_opening(subtract(total(bits.commitments), G), sum(blindings) % ORDER))


def verify_one_hot(proof: OneHotProof) -> bool:
    """Whether it is one."""
    return verify_bits(proof.bits) and verify_opening(
        subtract(total(proof.bits.commitments), G), proof.opening
    )


def prove_range(value: int, blinding: int, bits: int) -> BitsProof:
    """Commit to the bits of a value so that, weighted, their commitments add up to that of the value."""
    blindings = [secrets.randbelow(ORDER) for _ in range(bits - 1)]
    rest = (blinding - sum(each << (at + 1) for at, each in enumerate(blindings))) % ORDER
    return prove_bits([value >> at & 1 for at in range(bits)], [rest, *blindings])


def verify_range(commitment: bytes, proof: BitsProof) -> bool:
    """Whether the commitment is one to a number of so many bits."""
    weighted = total(times(1 << at, each) for at, each in enumerate(proof.commitments))
    return weighted == commitment and verify_bits(proof)


def is_bound(commitments: Sequence[Sequence[bytes]], sums: Sequence[int], blindings: Sequence[int]) -> bool:
    """Whether the devices' commitments, added up entry by entry, open to what the secure sum gave."""
    return all(
        total(column) == commit(value, blinding)
        for column, value, blinding in zip(zip(*commitments, strict=True), sums, blindings, strict=True)
    )


def clocked(work: Callable[[], Result], repeats: int) -> tuple[float, Result]:
    """Processor seconds of the best of several runs, and what the last gave."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        result = work()
        best = min(best, time.process_time() - started)
    return best, result


def show(name: str, value: float, unit: str, **more: object) -> None:
    """Print one figure."""
    print(json.dumps({"name": name, "value": float(f"{value:.4g}"), "unit": unit, **more}), flush=True)


def measure_one_hot(name: str, entries: int, repeats: int) -> None:
    """One device's vector with a single 1: to prove, to verify, its size, and that a lie is seen."""
    vector = [int(at == entries // 3) for at in range(entries)]
    blindings = [secrets.randbelow(ORDER) for _ in vector]
    seconds, proof = clocked(lambda: prove_one_hot(vector, blindings), repeats)
    show(f"{name}.prove", seconds, "s", entries=entries)
    seconds, is_right = clocked(lambda: verify_one_hot(proof), repeats)
    assert is_right
    show(f"{name}.verify", seconds, "s", entries=entries, devices=1)
    show(f"{name}.size", proof.size, "bytes", entries=entries)
    assert not verify_one_hot(prove_one_hot([1, *vector[1:]], blindings))
    liar = prove_bits([0] * entries, blindings)
    assert not verify_one_hot(OneHotProof(liar, proof.opening))


def measure_binding(entries: int, repeats: int) -> None:
    """The server's check that what was proved is what was masked, once a round."""
    devices = [
        [(int(at == seed), secrets.randbelow(ORDER)) for at in range(entries)] for seed in range(COHORT)
    ]
    commitments = [[commit(*entry) for entry in device] for device in devices]
    sums = [sum(value for value, _ in column) for column in zip(*devices, strict=True)]
    blindings = [sum(blinding for _, blinding in column) % ORDER for column in zip(*devices, strict=True)]
    seconds, is_right = clocked(lambda: is_bound(commitments, sums, blindings), repeats)
    assert is_right
    assert not is_bound(commitments, [sums[0] + 1, *sums[1:]], blindings)
    show("binding.check", seconds, "s", entries=entries, devices=COHORT)
    # A blinding modulo the group's order is added up in 16 words of 16 bits, each with room for the carries of the cohort.
    show("binding.upload", entries * 16 * 20 / 8, "bytes", entries=entries)


def measure_range(entries: int, repeats: int) -> tuple[float, float]:
    """Seconds to prove and to verify one entry of an update."""
    values = [(secrets.randbelow(1 << UPDATE_BITS), secrets.randbelow(ORDER)) for _ in range(entries)]
    commitments = [commit(*each) for each in values]
    proving, proofs = clocked(lambda: [prove_range(*each, UPDATE_BITS) for each in values], repeats)
    verifying, is_right = clocked(lambda: all(map(verify_range, commitments, proofs)), repeats)
    assert is_right
    assert not verify_range(commit(1 << UPDATE_BITS, 1), proofs[0])
    show("range.prove_entry", proving / entries, "s", bits=UPDATE_BITS)
    show("range.verify_entry", verifying / entries, "s", bits=UPDATE_BITS)
    return proving / entries, verifying / entries


def measure_update(entries: int, repeats: int) -> None:
    """What an update would take: by bits, from the measured cost of an entry, and by Bulletproofs, from the cost of a group operation."""
    proving, verifying = measure_range(entries, repeats)
    whole = {"entries": UPDATE_ENTRIES, "bits": UPDATE_BITS}
    show("update.bits.prove", proving * UPDATE_ENTRIES, "s", scaled_from_entries=entries, **whole)
    show("update.bits.verify", verifying * UPDATE_ENTRIES, "s", scaled_from_entries=entries, **whole)
    show("update.bits.size", UPDATE_ENTRIES * (32 + UPDATE_BITS * 128), "bytes", **whole)
    point, number = rbcl.crypto_core_ristretto255_random(), secrets.randbelow(ORDER)
    seconds, _ = clocked(lambda: [times(number, point) for _ in range(500)], repeats)
    show("group.multiplication", seconds / 500, "s")
    size = 1 << (UPDATE_ENTRIES * UPDATE_BITS - 1).bit_length()
    # Counted in the protocol of section 4.2 with N = entries · bits, a power of two: 2·N for the blinding vectors, N for the scaled
    # generators, 4·N for both sides of the folded inner product, 4·N to fold its generators; to verify, one product of 2·N terms.
    show(
        "update.bulletproof.prove", 11 * size * seconds / 500, "s", counted_multiplications=11 * size, **whole
    )
    show(
        "update.bulletproof.verify", 2 * size * seconds / 500, "s", counted_multiplications=2 * size, **whole
    )
    show("update.bulletproof.size", 32 * (2 * (size.bit_length() - 1) + 9), "bytes", **whole)


def main() -> None:
    """Measure everything."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 1 if options.parse_args().quick else 5
    os.environ["OMP_NUM_THREADS"] = "1"
    measure_one_hot("vote", VOTE_BINS, repeats)
    measure_one_hot("score", SCORE_BINS, repeats)
    measure_binding(VOTE_BINS, repeats)
    measure_binding(SCORE_BINS, repeats)
    measure_update(8 if repeats == 1 else 32, repeats)


if __name__ == "__main__":
    main()
