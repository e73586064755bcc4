"""How a claim speaks of what was summed: mechanisms, draws, and who stands for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from aggregator.privacy.history import HeldRound
from aggregator.privacy.ledger_entries import FixedCohort, PoissonCohort, Sampling

__all__ = ["enforcement", "mechanisms", "samplings"]


def mechanisms(seen: Sequence[HeldRound]) -> str:
    """Noise and words of the sums that the server saw, each kind once."""
    names = sorted(
        {
            f"{noise.mechanism} in {noise.bits}-bit words"
            if noise.mechanism != "none"
            else f"no noise in {noise.bits}-bit words"
            for noise in (held.opened.noise for held in seen)
        }
    )
    return f"secure sum (SecAgg+) with distributed noise: {'; '.join(names)}" if names else "no round yet"


def samplings(draws: Iterable[Sampling]) -> str:
    """How cohorts were drawn, a sentence for each way; numbers that went from round to round as a range."""
    ways: dict[str, list[tuple[float, ...]]] = {}
    for sampling in draws:
        match sampling:
            case PoissonCohort():
                way = "Poisson, each of {} devices with probability {}"
                if sampling.largest is None:
                    way += "; how many were in a sum can be told from the release"
                    numbers: tuple[float, ...] = (sampling.population, sampling.rate)
                else:
                    way += (
                        ", again where more than {} were; every sum carries the noise of so many devices, so that none tells how many are"
                        " in it"
                    )
                    numbers = (sampling.population, sampling.rate, sampling.largest)
            case FixedCohort() if sampling.size == sampling.population:
                way, numbers = "everybody who was there ({} devices)", (sampling.size,)
            case FixedCohort():
                secrecy = "drawn in secret" if sampling.is_secret else "drawn openly"
                way = f"{{}} of {{}} devices without replacement, {secrecy}"
                numbers = (sampling.size, sampling.population)
        ways.setdefault(way, []).append(numbers)
    sentences = (
        way.format(*(_from_to(column) for column in zip(*found, strict=True)))
        for way, found in sorted(ways.items())
    )
    return "; ".join(sentences) or "no round yet"


def _from_to(values: Collection[float]) -> str:
    least, most = min(values), max(values)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"


def enforcement(used: Sequence[HeldRound], *, poisson: bool) -> str:
    """On whose word the draws rest."""
    draws = [held.opened.sampling for held in used]
    drawn = [one for one in draws if isinstance(one, FixedCohort) and one.size < one.population]
    if draws and (poisson or any(one.is_secret for one in drawn)):
        return "the aggregator draws cohorts and keeps the draw secret, which devices cannot check; epsilon_server does not rest on it"
    return "no figure rests on secret sampling; each device counts and caps its own participations"
