"""``fedge-aggregator release`` and ``edge-tpu``: what a release says about itself, and whether a Coral could run it.

Both read files only. A bundle is opened with the public key that is given; a bare ``.tflite`` is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from aggregator.errors import ExportFailedError
from aggregator.release_keys import read_public_key
from models.bundles import ModelBundle, read_bundle
from models.errors import ModelError
from models.export.edge_tpu import EdgeTpuReadiness, check_edge_tpu
from models.export.edge_tpu_compiler import COMPILER, CompiledModel, compile_for_edge_tpu
from protocol.bundle import TrustedKeys, open_bundle
from protocol.errors import BundleError
from runtime.durable_files import write_durably
from runtime.errors import SettingsError

__all__ = ["EdgeTpuAnswer", "ReleaseAnswer", "shown_edge_tpu", "shown_release"]


class ReleaseAnswer(Struct, frozen=True, kw_only=True):
    """A release in figures; `evaluation` is that of its provenance.

    `prior_devices` and `prior_windows` say whose word the fleet's prior is: of how many devices, and openings counted on how many
    windows at most by detectors of one age. 0 where the model of the release judges.
    """

    release: str
    kind: str
    layers: tuple[int, ...]
    threshold: float
    participants: int
    examples: int
    algorithm: str
    evaluation: dict[str, float]
    int8_bytes: int
    float_bytes: int
    has_edge_tpu_model: bool
    detector: str
    prior_devices: int = 0
    prior_windows: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.release}: {self.kind} {'-'.join(map(str, self.layers))}, threshold {self.threshold:.4g}"
        if self.prior_devices:
            yield (
                f"devices judge by the mixture: the prior of {self.prior_devices} devices, openings counted on {self.prior_windows:,} windows"
            )
        yield f"learned from {self.participants} participants, {self.examples} examples: {self.algorithm or 'not said'}"
        yield f"int8 {self.int8_bytes} bytes, float32 parameters {self.float_bytes} bytes"
        yield f"model for Edge TPUs: {'yes' if self.has_edge_tpu_model else 'no'}"
        figures = self.evaluation
        if "sight" in figures:
            against = (
                f", the champion's {figures['champion_sight']:.0%}" if "champion_sight" in figures else ""
            )
            blind = ", accepted as blind" if figures.get("accepted_blind") else ""
            yield f"sight: {figures['sight']:.0%} of slightly disturbed windows are over the threshold{against}{blind}"
        if "int8_error" in figures:
            yield f"int8 against float: outputs differ by {figures['int8_error']:.2g} of their power"
        if "int8_score_error" in figures:
            yield f"scores by {figures['int8_score_error']:.2%} on average"
        if figures.get("int8_disagreement"):
            yield f"{figures['int8_disagreement']:.2%} of windows are put into another class"
        if "int8_per_channel" in figures:
            yield f"weight scales: {'per channel' if figures['int8_per_channel'] else 'per tensor'}"
        for warning in self.warnings:
            yield f"warning: {warning}"


class EdgeTpuAnswer(Struct, frozen=True, kw_only=True):
    """Readiness of a model, and what the compiler made of it where it was asked."""

    name: str
    readiness: EdgeTpuReadiness
    compiled: CompiledModel | None = None

    @property
    def text(self) -> str:
        """For people."""
        found = self.readiness
        verdict = "ready" if found.is_ready else "not ready"
        lines = [
            f"{self.name}: {verdict} for an Edge TPU by Coral's documented rules; {found.leading_operations} of {found.operations} operations, {found.parameter_bytes} bytes of parameters",
            *(f"  must be mended: {obstacle}" for obstacle in found.obstacles),
            *(f"  note: {remark}" for remark in found.remarks),
        ]
        if (made := self.compiled) is not None:
            lines.append(
                f"compiled by version {made.version}: {made.operations - made.processor_operations} of {made.operations} operations in "
                f"{made.subgraphs} partition(s), {made.on_chip_bytes} bytes on the chip, {made.off_chip_bytes} streamed"
            )
        return "\n".join(lines)

    def figures(self) -> dict[str, object]:
        """For programs: without the compiled model's bytes."""
        found: dict[str, object] = {
            "name": self.name,
            "is_ready": self.readiness.is_ready,
            **vars(self.readiness),
        }
        if self.compiled is not None:
            found["compiled"] = {k: v for k, v in vars(self.compiled).items() if k != "content"}
        return found


def shown_release(bundle: Path, release_key: Path) -> ReleaseAnswer:
    """What the bundle's manifest says, once its signature and content are checked.

    Raises:
        SettingsError: no such file, no such key, another signature, or content that contradicts the manifest.
    """
    content = _read_bundle(bundle, release_key)
    manifest = content.manifest
    return ReleaseAnswer(
        release=manifest.release,
        kind=manifest.model.kind,
        layers=tuple(manifest.model.layers),
        threshold=manifest.threshold.score,
        participants=manifest.provenance.participants,
        examples=manifest.provenance.examples,
        algorithm=manifest.provenance.algorithm,
        evaluation=manifest.provenance.evaluation,
        int8_bytes=len(content.int8_model),
        float_bytes=content.parameters.nbytes,
        has_edge_tpu_model=content.edge_tpu_model is not None,
        detector=manifest.detector,
        prior_devices=content.prior.devices if content.prior else 0,
        prior_windows=content.prior.most_windows if content.prior else 0,
        warnings=manifest.provenance.warnings,
    )


def shown_edge_tpu(
    file: Path, release_key: Path | None, out: Path | None, compiler: str = COMPILER
) -> EdgeTpuAnswer:
    """Check a bundle's int8 model or a ``.tflite``; with `out`, compile it and write the result there.

    Raises:
        SettingsError: as `shown_release`, or a bundle without `release_key`.
        ExportFailedError: no TFLite model, or the compiler is missing or refused it.
    """
    if file.suffix == ".tflite":
        content = _read_file(file)
    elif release_key is None:
        raise SettingsError(
            f"{file} is taken for a bundle, which needs --release-key; a model ends in .tflite"
        )
    else:
        content = _read_bundle(file, release_key).int8_model
    try:
        readiness = check_edge_tpu(content)
        compiled = compile_for_edge_tpu(content, compiler=compiler) if out is not None else None
    except ModelError as error:
        raise ExportFailedError(f"{file}: {error}") from error
    if out is not None and compiled is not None:
        write_durably(out, compiled.content)
    return EdgeTpuAnswer(name=file.name, readiness=readiness, compiled=compiled)


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror or error}") from None


def _read_bundle(file: Path, release_key: Path) -> ModelBundle:
    keys = TrustedKeys([read_public_key(release_key, "--release-key")])
    try:
        return read_bundle(open_bundle(_read_file(file), keys))
    except (BundleError, ModelError) as error:
        raise SettingsError(f"{file} is no release that {release_key} signed: {error}") from None
