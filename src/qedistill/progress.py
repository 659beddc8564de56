"""Progress bars with the time left."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich.progress
from rich.console import Console

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar on standard error while they are taken.

    Shown on a terminal only: elsewhere even a bar that vanishes leaves an empty line in the log.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        return iter(items)
    return iter(rich.progress.track(items, description, total, console=console, transient=True))
