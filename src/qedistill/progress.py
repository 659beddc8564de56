"""Progress bars with the time left."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


@contextmanager
def calls_bar(description: str, total: int) -> Iterator[Callable[[int, int, float | None, int], None]]:
    """A bar for calls of an API: calls a minute, time left, tokens, cost and answers of no use.

    Gives a function to call with the number of requests newly done, then tokens, cost (None: no prices are known) and
    useless answers so far.
    """
    console = Console(stderr=True)
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]} left"),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        rich.progress.TextColumn("{task.fields[figures]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        speed_estimate_period=300,
    )
    with bar:
        task = bar.add_task(description, total=total, rate="", figures="")

        def update(done: int, tokens: int, cost: float | None, useless: int) -> None:
            speed = bar.tasks[0].speed
            figures = [f"{tokens:,} tokens", *([] if cost is None else [f"cost {cost:.4f}"])]
            figures += [f"{useless} of no use"] if useless else []
            bar.update(
                task, advance=done, figures=" · ".join(figures), rate=f"{speed * 60:.0f} a minute," if speed else ""
            )

        yield update
