"""Everything that can be wrong with a model, its content, or the data it is given.

::

    ModelError
    ├── LayoutError             we, or the sender: a vector or an array does not fit the architecture
    │   └── ParameterError      the parameters are not finite numbers
    ├── TrainingSettingsError   whoever set the training up: a momentum, clip or rate that means nothing
    ├── RuntimeMissingError     the operator: this machine lacks the library a runtime needs; the message names the extra
    ├── InputError              the device: windows or scores of another shape, too few of them, or with NaN in them
    ├── FeatureError            the sensor, or the spec: a window that cannot become features
    ├── DriftStateError         this device: a saved drift state that is damaged or of another layout; start afresh
    ├── ExecutionError          this machine: the runtime, or an accelerator under it, failed while it ran a model
    ├── RecordingError          whoever gave the file: no recording, damaged, or a place in it that is no number
    ├── DelegateError           this device: an accelerator's library is missing or does not work; the processor does
    ├── ModelFormatError        the release is bad: bytes that are no model this build runs, or a foreign one
    ├── BundleContentError      the release is bad: a signed file does not mean what the manifest promises
    │   └── GoldenMismatchError the model computes something else on this machine than where it was built
    └── ExportError             the cloud: a model cannot be built from what was given
        ├── EdgeTpuCompilerError  Coral's compiler is not installed, refused the model, or hung
        └── RangeError          the activation ranges given for int8 are unusable

A device answers any of these by keeping the release it runs.
"""

from __future__ import annotations

__all__ = [
    "BundleContentError",
    "DelegateError",
    "DriftStateError",
    "EdgeTpuCompilerError",
    "ExecutionError",
    "ExportError",
    "FeatureError",
    "GoldenMismatchError",
    "InputError",
    "LayoutError",
    "ModelError",
    "ModelFormatError",
    "ParameterError",
    "RangeError",
    "RecordingError",
    "RuntimeMissingError",
    "TrainingSettingsError",
]


class ModelError(Exception):
    """Root of every refusal in this package."""


class LayoutError(ModelError):
    """An array does not have the shape or type that the architecture asks for; mend the caller."""


class ParameterError(LayoutError):
    """Parameters hold NaN or infinity; discard them and keep the last good ones."""


class TrainingSettingsError(ModelError):
    """A setting of an optimizer or of private training outside its range; the message names the range."""


class RuntimeMissingError(ModelError):
    """A runtime was asked for whose library is not installed here; install the extra that the message names."""


class FeatureError(ModelError):
    """A window of another shape or with samples that are not finite, or a spec this build cannot compute."""


class DriftStateError(ModelError):
    """Saved drift state that is truncated or belongs to another reference; begin with a fresh monitor."""


class DelegateError(ModelError):
    """An accelerator that cannot be used; run the model on the processor and say so once."""


class RecordingError(ModelError):
    """A file given as a recording that is none, or a place in it that cannot be read; the message names both."""


class ExecutionError(ModelError):
    """A model that was loaded and failed while it ran; skip the window, and run it on the processor if it was elsewhere."""


class InputError(ModelError):
    """Windows or scores that nothing can be computed from; count them, and look at the sensor."""


class ModelFormatError(ModelError):
    """Bytes that LiteRT cannot run, or a model of another architecture; refuse the release."""


class BundleContentError(ModelError):
    """A verified bundle whose files contradict its manifest; refuse the release."""


class GoldenMismatchError(BundleContentError):
    """The int8 model does not reproduce its golden outputs on this machine; refuse the release."""


class ExportError(ModelError):
    """TensorFlow or the quantizer could not build the model; the message carries their last words."""


class EdgeTpuCompilerError(ExportError):
    """No model for the Edge TPU; the release is whole without one, its devices use their processor."""


class RangeError(ExportError):
    """The (min, max) ranges are missing, not finite or inverted; ask the devices again."""
