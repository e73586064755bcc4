"""What devices add up: numbers and arrays, field by field. What a sum means is said by whoever defines its fields."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, Self, TypeVar

import numpy as np

from models.errors import LayoutError

__all__ = ["Sums", "total"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Of one device, or of many: `+` of both together, `-` of all but one that is part of them."""

    def __add__(self, other: Self) -> Self:
        """Of both together; raises LayoutError for other shapes."""
        return self._combined(other, operator.add)

    def __sub__(self, other: Self) -> Self:
        """Of all but `other`, which is part of these sums; raises LayoutError for other shapes."""
        return self._combined(other, operator.sub)

    def _combined(self, other: Self, combine: Callable[[Any, Any], Any]) -> Self:
        combined = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if np.shape(mine) != np.shape(theirs):
                raise LayoutError(
                    f"{type(self).__name__} add up over the same sensors and levels, {field.name} have shapes"
                    f" {np.shape(mine)} and {np.shape(theirs)}"
                )
            combined[field.name] = combine(mine, theirs)
        return type(self)(**combined)


S = TypeVar("S", bound=Sums)


def total(parts: Sequence[S]) -> S:
    """The sum of at least one part."""
    return reduce(operator.add, parts)
