"""One flat float32 vector as bytes, read without trusting the sender.

The form is NumPy's ``.npy``, which Flower's ArrayRecords carry. `numpy.load` would believe any header: allocate what it
claims, or open an archive. Here the header must claim exactly the bytes that follow, one dimension and little-endian float32;
nothing is allocated before that is certain and nothing is ever unpickled.

Source: NEP 1, "A Simple File Format for NumPy Arrays", and `numpy.lib.format`.
"""

from __future__ import annotations

import io
from tokenize import TokenError
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.errors import QuestionError

__all__ = ["decode_vector"]

MAX_HEADER_BYTES: Final = 1024
"""A one-dimensional header needs about 70."""


def decode_vector(content: bytes) -> NDArray[np.float32]:
    """Read a vector, shape (n,), float32, a new writable array. Finiteness is the caller's question.

    Raises:
        QuestionError: not ``.npy`` of version 1.0, another type or number of dimensions, or bytes missing or left over.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise QuestionError(f"a vector must be .npy version 1.0, got {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, SyntaxError, TypeError, TokenError, RecursionError, MemoryError) as error:
        raise QuestionError(f"not a .npy vector: {str(error)[:200]}") from None
    if dtype != np.dtype("<f4"):
        raise QuestionError(f"a vector must be little-endian float32, got {str(dtype)[:40]!r}")
    if len(shape) != 1:
        raise QuestionError(f"a vector has one dimension, got {len(shape)}")
    body = content[stream.tell() :]
    if shape[0] * 4 != len(body):
        raise QuestionError(f"a vector of {shape[0]} entries is {shape[0] * 4} bytes, got {len(body)}")
    return np.frombuffer(body, "<f4").astype(np.float32)
