"""What was left out, merged, cut or overruled on the way: counted by reason, the first few named."""

import re
from collections import Counter, defaultdict

import click

_NAMED = 3  # of a reason


class Tally:
    """Counts by reason; every reader that may lose something takes one, and the stage tells and writes it.

    Example:
        >>> tally = Tally()
        >>> tally.add("documents left out: no text", "d7")
        >>> tally.lines(), tally.figures()
        (['1 documents left out: no text (d7)'], {'documents_left_out_no_text': 1})
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, name: str = "", count: int = 1) -> None:
        """Count something lost.

        Args:
            reason: what of, what became of it and why, as one clause; it names the figure, too.
            name: of the record, such as its id, for the first few.
        """
        self.counts[reason] += count
        if name and len(self._names[reason]) < _NAMED:
            self._names[reason].append(name)

    def lines(self) -> list[str]:
        """A line a reason, in the order in which they were met."""
        told = []
        for reason, count in self.counts.items():
            names = self._names[reason]
            more = ", …" if count > len(names) else ""
            told.append(f"{count:,} {reason}" + (f" ({', '.join(names)}{more})" if names else ""))
        return told

    def tell(self) -> None:
        """Print the lines."""
        for line in self.lines():
            click.echo(line, err=True)

    def figures(self) -> dict[str, int]:
        """Reason, as a metric's name → count."""
        return {re.sub(r"\W+", "_", reason): count for reason, count in self.counts.items()}
