"""Where the commands write to, and how they end when something is wrong."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

console = Console(highlight=False)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End in one line and exit status 2 whatever a user, a file or a provider did wrong."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        line = " ".join(str(error).split()) or type(error).__name__
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"error: {line}", "red"))
        raise typer.Exit(2) from error
