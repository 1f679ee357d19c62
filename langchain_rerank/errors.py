"""The exceptions this package raises on its own account.

Wrong arguments are plain `ValueError` and `TypeError`; everything else that can
go wrong derives from `RerankError`, so one `except` covers the package.
"""

from __future__ import annotations

import importlib.util
from typing import Any


class RerankError(Exception):
    """Base of every error that is not a wrong argument."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by a subclass's own arguments, which `args` does not hold: an error that can't be
        # unpickled leaves the parent of a pool's worker waiting for ever.
        return _rebuilt, (type(self), self.args, vars(self))


def _rebuilt(kind: type[RerankError], args: tuple[Any, ...], state: dict[str, Any]) -> RerankError:
    error = kind.__new__(kind, *args)
    super(RerankError, error).__init__(*args)
    vars(error).update(state)
    return error


class MissingDependencyError(RerankError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""

    def __init__(self, package: str, install: str, purpose: str) -> None:
        """Say that `purpose` needs `package`, which `pip install` with `install` brings."""
        # Quotes keep a shell from expanding the brackets of an extra, but would make one word of
        # an option and a name.
        arguments = f'"{install}"' if "[" in install else install
        super().__init__(f"{purpose} needs the package '{package}'. Run: pip install {arguments}")


def require(*packages: str, install: str, purpose: str) -> None:
    """Raise `MissingDependencyError` for the first package not installed; imports none."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, install, purpose)


class ModelLoadError(RerankError):
    """A model could not be loaded: what was looked for, where, and what to do."""


class ScoringError(RerankError):
    """A cross encoder failed or broke its contract; the real cause is chained."""


class RemoteError(ScoringError):
    """A rerank server could not be reached, refused, or gave something other than scores."""

    def __init__(
        self, message: str, *, url: str, status: int | None = None, attempts: int = 1
    ) -> None:
        """Keep what a caller may act on.

        Args:
            message: What was expected, what came and what to do.
            url: Of the server asked last, without credentials or query.
            status: Its HTTP status; None if no answer came.
            attempts: How many requests were sent, retries included.
        """
        super().__init__(message)
        self.url = url
        self.status = status
        self.attempts = attempts


class EvaluationError(RerankError):
    """A system failed on a query of an evaluation; the real cause is chained."""
