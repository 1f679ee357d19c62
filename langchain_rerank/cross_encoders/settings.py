"""What cross encoders that are made of settings share: equality, and copies of settings only."""

from __future__ import annotations

import functools
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen settings beside state that belongs to one object.

    Objects of equal settings are equal. A copy made by `pickle`, `copy`, `deepcopy` or
    `model_copy` has the settings and makes state of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **self.model_dump()), ()

    def __copy__(self) -> Self:
        # `model_copy(update={"model": …})` copies by this: it must not go on with the old state.
        return type(self)(**self.model_dump())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return type(self)(**self.model_dump())
