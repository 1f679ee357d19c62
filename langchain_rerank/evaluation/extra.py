"""The one door to the packages of the extra `eval`."""

from __future__ import annotations

from langchain_rerank.errors import require


def require_eval(package: str, *, purpose: str) -> None:
    """Check that a package of the extra is installed, without importing it.

    Args:
        package: Import name.
        purpose: What needs it, as the start of a sentence.

    Raises:
        MissingDependencyError: It is not; the message names the extra to install.
    """
    require(package, install="langchain-rerank[eval]", purpose=purpose)
