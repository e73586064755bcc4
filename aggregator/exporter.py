"""The exporter: the quantizer in this process, TensorFlow only ever in a child (`models.export.isolated`), and only for version 1.

Holds the release key, which signs and is never shown. Foreign errors end here as ExportFailedError.
"""

from __future__ import annotations

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.errors import ExportFailedError
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.signing_gate import Cleared
from models.errors import EdgeTpuCompilerError, ModelError
from models.export.edge_tpu_compiler import compile_for_edge_tpu
from models.export.int8_graph import export_int8_model
from models.export.pruning import Pruned, proven_silent_units, remove_units, seen_silent_units
from models.export.release import build_release
from protocol.bundle import TrustedKeys
from protocol.errors import ProtocolError

__all__ = ["SigningExporter"]

_log = structlog.get_logger()


class SigningExporter:
    """Implements `aggregator.rounds.ports.Exporter` with one release key."""

    def __init__(self, signing_key: Ed25519PrivateKey) -> None:
        self._key = signing_key

    @property
    def trusted(self) -> TrustedKeys:
        """Whose releases these are."""
        return TrustedKeys([self._key.public_key()])

    def int8_model(self, candidate: Candidate) -> bytes:
        """See `Exporter.int8_model`."""
        try:
            pruned = _pruned(candidate)
            return export_int8_model(
                pruned.architecture,
                pruned.parameters,
                candidate.low,
                candidate.high,
                weight_scales=candidate.int8.weight_scales,
                probes=candidate.probes,
            )
        except ModelError as error:
            raise ExportFailedError(f"the candidate cannot be quantised: {error}") from error

    def release(self, cleared: Cleared) -> bytes:
        """See `Exporter.release`."""
        candidate = cleared.candidate
        try:
            return build_release(
                candidate,
                signing_key=self._key,
                int8_model=cleared.int8_model,
                edge_tpu_model=_compiled(candidate, cleared.int8_model),
            )
        except (ModelError, ProtocolError) as error:
            raise ExportFailedError(
                f"release {candidate.family}/{candidate.version} cannot be built: {error}"
            ) from error


def _pruned(candidate: Candidate) -> Pruned:
    """The candidate without units that cannot fire, and without those that were not seen to, where the family wants that."""
    architecture, parameters = candidate.architecture, candidate.parameters
    silent = proven_silent_units(architecture, parameters, candidate.low, candidate.high)
    if candidate.int8.prune_silent_units and candidate.probes is not None:
        seen = seen_silent_units(architecture, parameters, candidate.probes)
        silent = tuple(a | b for a, b in zip(silent, seen, strict=True))
    pruned = remove_units(architecture, parameters, silent)
    if any(pruned.removed):
        _log.info(
            "silent_units_left_out",
            release=f"{candidate.family}/{candidate.version}",
            layers=architecture.layers,
            removed=pruned.removed,
        )
    return pruned


def _compiled(candidate: Candidate, int8_model: bytes) -> bytes | None:
    """The model for Edge TPUs where the family wants one and the compiler makes one; the release stands without."""
    if not candidate.int8.edge_tpu:
        return None
    release = f"{candidate.family}/{candidate.version}"
    try:
        compiled = compile_for_edge_tpu(int8_model)
    except EdgeTpuCompilerError as error:
        _log.warning("edge_tpu_model_left_out", release=release, reason=str(error))
        return None
    _log.info(
        "edge_tpu_model_compiled",
        release=release,
        compiler=compiled.version,
        operations=compiled.operations,
        on_processor=compiled.processor_operations,
        subgraphs=compiled.subgraphs,
        off_chip_bytes=compiled.off_chip_bytes,
    )
    return compiled.content
