"""A plan as tables."""

from rich import box
from rich.console import Console
from rich.table import Table as Rich

from qedistill.plan import Plan

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


def tables(plan: Plan) -> list[Table]:
    """What is to be fetched, asked, searched and trained, with what memory and in which time; only tables with rows."""
    found = [_stages(plan), _loads(plan), _calls(plan), _work(plan), _memory(plan), _hours(plan)]
    return [table for table in found if table[2]]


def show(plan: Plan) -> None:
    """Print a plan, its assumptions, and what is not known or missing."""
    console = Console()
    if not console.is_terminal:  # where output goes to a file there is no width to fit
        console = Console(width=160)
    for title, header, body in tables(plan):
        table = Rich(title=title, title_justify="left", box=box.SIMPLE)
        for column, name in enumerate(header):
            figures = column > 0 and all(row[column][:1] in "≤–?0123456789" for row in body)
            table.add_column(name, justify="right" if figures else "left", overflow="fold")
        for row in body:
            table.add_row(*row)
        console.print(table)
    for line in (
        *([plan.assumptions] if plan.hours else []),
        *(f"Note: {note}." for note in plan.notes),
        *(f"Missing: {sentence}" for sentence in plan.missing),
        *([] if plan.missing else ["Nothing is missing."]),
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _stages(plan: Plan) -> Table:
    rows = []
    for word, made in (("made", True), ("to do", False)):
        if names := [name for name, own in plan.made.items() if own == made]:
            rows.append([word, ", ".join(names)])
    return "Stages, by dvc.lock (`dvc status` compares files and code too)", ["", "stages"], rows


def _loads(plan: Plan) -> Table:
    rows = [
        [load.what, _size(load.size), _size(load.disk), "there" if load.there else "to come", str(load.folder)]
        for load in plan.loads
    ]
    missing = [load for load in plan.loads if not load.there]
    if rows:
        total = (sum(getattr(load, key) or 0 for load in missing) for key in ("size", "disk"))
        rows.append(["all that is to come", *(_size(size) for size in total), "", ""])
    return (
        "Downloads and disk; an archive stands beside what it holds while it is unpacked",
        ["what", "download", "disk", "", "where"],
        rows,
    )


def _size(size: float | None) -> str:
    """Bytes in a unit that shows them."""
    if size is None:
        return "?"
    if not size:
        return "–"
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 else f"{size / 1e6:,.2f} MB"


def _calls(plan: Plan) -> Table:
    rows = [
        [
            style, f"{calls.asked:,}", f"{calls.known:,}", f"{calls.asked - calls.known:,}",
            f"{calls.usage.prompt_tokens:,}", f"{calls.usage.completion_tokens:,}",
            "?" if calls.cost is None else f"{calls.cost:,.2f}",
        ]
        for style, calls in plan.calls.items()
    ]  # fmt: skip
    if rows:
        every = list(plan.calls.values())
        cost = "?" if any(calls.cost is None for calls in every) else f"{sum(calls.cost or 0 for calls in every):,.2f}"
        sums = [
            sum(values)
            for values in zip(
                *(
                    (c.asked, c.known, c.asked - c.known, c.usage.prompt_tokens, c.usage.completion_tokens)
                    for c in every
                ),
                strict=True,
            )
        ]
        rows.append(["both", *(f"{value:,}" for value in sums), cost])
    header = [
        "style",
        "answers",
        "in the ledger",
        "calls",
        "prompt tokens, about",
        "completion, at most",
        "cost, at most",
    ]
    return "Teacher", header, rows


def _work(plan: Plan) -> Table:
    rows = [[f"queries: {name}", _upto(count, plan.exact)] for name, count in plan.queries.items()]
    if todo := plan.todo:
        rows += [
            ["searches: feedback", _upto(todo.feedback_searches, plan.exact)],
            ["searches: retrieve", _upto(todo.retrieve_searches, plan.exact)],
            ["SFT: rows, steps, tokens", f"{todo.sft_rows:,}, {todo.sft_steps:,}, {todo.sft_tokens:,.0f}"],
            ["DPO: pairs, steps, tokens, at most", f"{todo.pairs:,}, {todo.dpo_steps:,}, {todo.dpo_tokens:,.0f}"],
            ["tokens: sample, expand, at most", f"{todo.sample_tokens:,.0f}, {todo.expand_tokens:,.0f}"],
        ]
    return "Search and training", ["what", "how much"], rows


def _upto(count: int, exact: bool) -> str:
    return f"{count:,}" if exact else f"≤ {count:,}"


def _memory(plan: Plan) -> Table:
    rows = []
    for stage, terms in plan.memory.items():
        most = max(terms, key=terms.__getitem__)
        parts = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in terms.items() if value)
        rows.append([stage, f"{sum(terms.values()) / 1e9:.1f} GB", most, parts])
    title = f"Memory at the most, on {plan.device.name} ({plan.device.memory / 1e9:.0f} GB)"
    if plan.processes > 1:
        title += f", training for each of {plan.processes} processes"
    return title, ["stage", "in all", "most of it", "terms, GB"], rows


def _hours(plan: Plan) -> Table:
    rows = [[stage, _time(hours) if hours else "–"] for stage, hours in plan.hours.items()]
    if rows:
        rows.append(["in all", _time(sum(plan.hours.values()))])
    return "Time, roughly", ["stage", "time"], rows


def _time(hours: float) -> str:
    minutes = hours * 60
    return f"{hours:,.1f} h" if hours >= 1.5 else f"{minutes:.0f} min" if minutes >= 1 else "under a minute"
