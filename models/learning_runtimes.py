"""What a device learns with: LiteRT as everywhere, or PyTorch where its owner installed the `torch` extra.

Both answer the same questions by the same port, and the same settings and random bytes give the same update within
float32 (tests/models/test_torch_training.py). Neither library is loaded before a model is opened.
"""

from __future__ import annotations

from typing import Literal, Protocol, assert_never

from models.architecture import Architecture
from models.local_training import Trainable
from models.private_training import PrivatelyTrainable

__all__ = ["LearningModel", "LearningRuntime", "open_learning_model"]

LearningRuntime = Literal["litert", "torch"]


class LearningModel(Trainable, PrivatelyTrainable, Protocol):
    """All that a learner asks of a model: train, train privately, score, report ranges."""


def open_learning_model(
    content: bytes, architecture: Architecture, runtime: LearningRuntime = "litert"
) -> LearningModel:
    """A model that learns on this machine; it holds no parameters until `restore`.

    Args:
        content: the exported training model of `architecture`; PyTorch needs none and does not look at it.
        architecture: what to train.
        runtime: what runs it.

    Raises:
        ModelFormatError: LiteRT cannot load the bytes, or they are not the training model of `architecture`.
        RuntimeMissingError: PyTorch is asked for and not installed.
    """
    match runtime:
        case "litert":
            # Only here: a device on PyTorch needs no LiteRT to learn.
            from models.training_model import TrainingModel

            return TrainingModel(content, architecture)
        case "torch":
            # Only here, for the sake of its neighbour.
            from models.torch_training import TorchTrainingModel

            return TorchTrainingModel(architecture)
        case _:
            assert_never(runtime)
