"""A teacher's expansions: recorded, from an API, or from a model in this process."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from qedistill.errors import UserError
from qedistill.generation.checks import examine
from qedistill.generation.recorded import read_answers
from qedistill.generation.request import Answer, Outcome, Request, Usage, tokens_of
from qedistill.layout import EXEMPLARS, queries
from qedistill.params import Params
from qedistill.prompts import EVERY, STYLES, Exemplar, Exemplars, few_shot, shown
from qedistill.text import Queries, read_json, read_queries
from qedistill.words import count_words

Record = dict[str, Any]  # an expansion as data/teacher and data/expansions hold it


def teacher_requests(
    style: str, learning: Queries, testing: Queries, exemplars: Exemplars, params: Params
) -> list[Request]:
    """What the teacher is asked in one style: `teacher.samples` answers to each query to learn from, one to a test query.

    Queries that serve as exemplars of all are left out: they would be shown their own answer.
    """
    teacher, collection = params.teacher, params.collection
    chosen = exemplars if style == "few_shot" else {}
    own = {exemplar.query_id for exemplar in chosen.get(EVERY, [])}
    options: dict[str, Any] = {"temperature": teacher.temperature, "max_tokens": teacher.max_new_tokens}
    if teacher.generator == "api":
        options |= teacher.api.extra_body
    options = {key: value for key, value in options.items() if value is not None}  # null takes a field away
    return [
        Request(
            query_id,
            text,
            style,
            sample,
            teacher.model or "recorded",
            few_shot(text, _within(shown(query_id, chosen), text, params), collection, teacher.max_words),
            options,
        )
        for queries, samples in ((testing, 1), (learning, teacher.samples))
        for query_id, text in queries.items()
        for sample in range(samples if query_id not in own else 0)
    ]


def read_requests(params: Params) -> dict[str, list[Request]]:
    """Style → what the teacher is asked, for the queries and exemplars that the stages before wrote."""
    learning = read_queries(queries("train")) | read_queries(queries("validation"))
    testing = {i: text for name in params.collection.tests for i, text in read_queries(queries(name)).items()}
    exemplars = {
        query_id: [Exemplar(**exemplar) for exemplar in some] for query_id, some in read_json(EXEMPLARS).items()
    }
    return {style: teacher_requests(style, learning, testing, exemplars, params) for style in STYLES}


def _within(exemplars: list[Exemplar], query: str, params: Params) -> list[Exemplar]:
    """As many whole exemplars, the last ones, as `exemplars.max_tokens` leaves room for."""
    limit = params.teacher.exemplars.max_tokens
    kept = list(exemplars)  # the most similar stands last
    while kept and limit and tokens_of(few_shot(query, kept, params.collection, params.teacher.max_words)) > limit:
        kept.pop(0)
    return kept


def teach(
    style: str, requests: dict[str, list[Request]], params: Params, ledger: Path
) -> tuple[list[Record], dict[str, Any], int]:
    """The teacher's expansions in one style.

    Args:
        requests: style → its requests; those of the other style count towards `teacher.max_cost`.
        ledger: file that keeps an API's answers.

    Returns:
        Records in the order of the requests; figures: `queries`, `answers`, `missing` (requests without an answer of
        use) and `words_per_answer`; where answers are generated also `calls` by outcome, `cleaned` by kind,
        `prompt_tokens`, `completion_tokens`, `cached_tokens` and, where prices are known, `cost`, all over every run;
        and how many calls this run made.

    Raises:
        UserError: recorded answers are missing or malformed, the model cannot be loaded, the API cannot be used
            (`api.ask`), or more than `teacher.tolerance` of the answers are of no use.
    """
    teacher, wanted = params.teacher, requests[style]
    if teacher.generator == "recorded":
        samples = Counter(request.query_id for request in wanted)
        answers = read_answers(Path(teacher.recordings) / f"{style}.jsonl", samples, teacher.tolerance)
        records = [
            {"query_id": a["query_id"], "style": style, "sample": a["sample"], "text": a["text"], "model": "recorded"}
            | {key: a[key] for key in ("model", "prompt_tokens", "completion_tokens", "seconds") if key in a}
            for a in answers
        ]
        return records, _figures(records, len(wanted) - len(records)), 0
    if teacher.generator == "local":
        outcome = generate_locally(wanted, params)
    else:
        from qedistill.generation.api import ask
        from qedistill.generation.ledger import Ledger

        others = [request for other, some in requests.items() if other != style for request in some]
        with Ledger(ledger) as opened:
            outcome = ask(wanted, teacher, params.collection.language, opened, others)
    _tolerate(outcome, wanted, teacher.tolerance)
    records = [as_record(request, answer) for request in wanted if (answer := outcome.answers.get(request.key))]
    return records, _figures(records, len(wanted) - len(records)) | _spent(outcome, params), outcome.asked


def as_record(request: Request, answer: Answer) -> Record:
    """An answer as data/teacher and recordings hold it."""
    return {
        "query_id": request.query_id,
        "style": request.style,
        "sample": request.sample,
        "text": answer.text,
        "model": request.model,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "seconds": round(answer.seconds, 3),
    }


def from_records(path: Path, requests: Sequence[Request], params: Params) -> tuple[dict[str, Answer], dict[str, str]]:
    """Answers to requests out of a file of records, and what is wrong with those that fail the checks; both by key."""
    by_name = {(request.query_id, request.sample): request for request in requests}
    answers, useless = {}, {}
    for record in read_answers(path, Counter(request.query_id for request in requests), tolerance=1.0):
        request = by_name[record["query_id"], record["sample"]]
        text, cleaned, problem = examine(record["text"], request.query, params.collection.language)
        if problem:
            useless[request.key] = problem
        else:
            counts = (record.get(name) for name in ("prompt_tokens", "completion_tokens"))
            usage = Usage(*(count if isinstance(count, int) else 0 for count in counts))
            answers[request.key] = Answer(text, cleaned, record["text"], usage)
    return answers, useless


def _figures(records: list[Record], missing: int) -> dict[str, Any]:
    return {
        "queries": len({record["query_id"] for record in records}),
        "answers": len(records),
        "missing": missing,
        "words_per_answer": sum(count_words(record["text"]) for record in records) / max(1, len(records)),
    }


def _spent(outcome: Outcome, params: Params) -> dict[str, Any]:
    from qedistill.generation.api import cost

    usage, teacher = outcome.usage, params.teacher
    figures: dict[str, Any] = {
        "calls": dict(sorted(outcome.calls.items())),
        "cleaned": dict(sorted(Counter(kind for a in outcome.answers.values() for kind in a.cleaned).items())),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
    }
    if teacher.generator == "api" and teacher.api.prices:
        figures["cost"] = round(cost(usage, teacher.api.prices), 6)
    return figures


def _tolerate(outcome: Outcome, wanted: Sequence[Request], tolerance: float) -> None:
    """Raise a UserError where too many answers are of no use."""
    if len(outcome.useless) <= tolerance * len(wanted):
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(outcome.useless.values()).most_common())
    queries = list(dict.fromkeys(request.query_id for request in wanted if request.key in outcome.useless))
    named = ", ".join(queries[:5]) + (", …" if len(queries) > 5 else "")
    raise UserError(
        f"{len(outcome.useless)} of {len(wanted)} answers of the teacher are of no use ({kinds}; queries {named}), more "
        "than teacher.tolerance allows: see to teacher.max_new_tokens or the prompt, raise teacher.asks, or raise the "
        "tolerance; answers of use that an API gave are in the ledger"
    )


def generate_locally(requests: Sequence[Request], params: Params) -> Outcome:
    """Answers of `teacher.model` in this process; those of no use are asked for again, by another seed."""
    from qedistill.generation.local import generate
    from qedistill.training.model import load_teacher

    teacher = params.teacher
    model, tokenizer = load_teacher(str(teacher.model))
    outcome = Outcome({})
    pending = list(requests)
    for turn in range(teacher.asks):
        by_query = [list(group) for _, group in groupby(pending, key=lambda request: request.query_id)]
        for samples in sorted({len(group) for group in by_query}, reverse=True):
            groups = {group[0].query_id: group for group in by_query if len(group) == samples}
            prompts = {query_id: group[0].messages for query_id, group in groups.items()}
            for record in generate(
                model,
                tokenizer,
                prompts,
                teacher.max_new_tokens,
                teacher.temperature,
                samples,
                teacher.batch_size,
                params.seed + turn,
            ):
                _take(record, groups[record["query_id"]][record["sample"]], params, outcome)
        pending = [request for request in pending if request.key not in outcome.answers]
        if not pending or teacher.temperature == 0:  # greedy: the same again
            break
    outcome.asked = outcome.calls.total()
    return outcome


def _take(record: Record, request: Request, params: Params, outcome: Outcome) -> None:
    cut = record["completion_tokens"] >= params.teacher.max_new_tokens
    text, cleaned, problem = examine(
        record["text"], request.query, params.collection.language, cut, params.teacher.max_words
    )
    usage = Usage(record["prompt_tokens"], record["completion_tokens"])
    outcome.usage += usage
    outcome.calls[problem or "answer"] += 1
    if problem:
        outcome.useless[request.key] = problem
    else:
        outcome.useless.pop(request.key, None)
        outcome.answers[request.key] = Answer(text, cleaned, record["text"], usage, record["seconds"])
