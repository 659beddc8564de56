"""A teacher's expansions: recorded, from an API, or from a model in this process."""

import time
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
from qedistill.tally import Tally
from qedistill.text import Queries, read_json, read_queries
from qedistill.words import count_words, one_line

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
    style: str, requests: dict[str, list[Request]], params: Params, ledger: Path, told: Tally | None = None
) -> tuple[list[Record], dict[str, Any], int]:
    """The teacher's expansions in one style.

    Args:
        requests: style → its requests; those of the other style count towards `teacher.max_cost`.
        ledger: file that keeps an API's answers.
        told: where to count what is left out, passed over, cleaned or overruled.

    Returns:
        Records in the order of the requests; figures: `queries`, `answers`, `missing` (requests without an answer of
        use), `words_per_answer` and `told` (by reason); where answers are generated also `calls` by outcome, `cleaned` by kind,
        `prompt_tokens`, `completion_tokens`, `cached_tokens` and, where prices are known, `cost`, all over every run; of a local teacher `seconds`;
        and how many calls this run made.

    Raises:
        UserError: recorded answers are missing or malformed, the model cannot be loaded, the API cannot be used
            (`api.ask`), or more than `teacher.tolerance` of the answers are of no use.
    """
    teacher, wanted = params.teacher, requests[style]
    told = Tally() if told is None else told
    if teacher.generator == "recorded":
        samples = Counter(request.query_id for request in wanted)
        answers = read_answers(Path(teacher.recordings) / f"{style}.jsonl", samples, teacher.tolerance, told)
        texts = {request.query_id: request.query for request in wanted}
        for kept in answers:  # what was recorded was meant to be; a user may know better than the checks
            problem = examine(kept["text"], texts[kept["query_id"]], params.collection.language)[2]
            if problem:
                told.add(f"recorded answers kept that look of no use: {problem}", kept["query_id"])
        records = [
            {"query_id": kept["query_id"], "style": style, "sample": kept["sample"], "text": kept["text"]}
            | {"model": "recorded"}
            | kept
            for kept in answers
        ]
        return records, _figures(records, len(wanted) - len(records), told), 0
    if teacher.generator == "local":
        outcome = generate_locally(wanted, params)
    else:
        from qedistill.generation.api import ask
        from qedistill.generation.ledger import Ledger

        others = [request for other, some in requests.items() if other != style for request in some]
        with Ledger(ledger) as opened:
            outcome = ask(wanted, teacher, params.collection.language, opened, others, told)
    _tolerate(outcome, wanted, teacher.tolerance, told)
    records = [as_record(request, own) for request in wanted if (own := outcome.answers.get(request.key))]
    return records, _figures(records, len(wanted) - len(records), told) | _spent(outcome, params), outcome.asked


def as_record(request: Request, answer: Answer) -> Record:
    """An answer as data/teacher and recordings hold it; its seconds where they are kept with it, as the ledger does."""
    return {
        "query_id": request.query_id,
        "style": request.style,
        "sample": request.sample,
        "text": answer.text,
        "model": request.model,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
    } | ({"seconds": round(answer.seconds, 3)} if answer.seconds else {})


def from_records(
    path: Path, requests: Sequence[Request], params: Params, told: Tally
) -> tuple[dict[str, Answer], dict[str, str]]:
    """Answers to requests out of a file of records, and what is wrong with those that fail the checks; both by key."""
    by_name = {(request.query_id, request.sample): request for request in requests}
    answers, useless = {}, {}
    for record in read_answers(path, Counter(request.query_id for request in requests), tolerance=1.0, told=told):
        request = by_name[record["query_id"], record["sample"]]
        text, cleaned, problem = examine(record["text"], request.query, params.collection.language)
        if problem:
            useless[request.key] = problem
        else:
            usage = Usage(record.get("prompt_tokens", 0), record.get("completion_tokens", 0))
            answers[request.key] = Answer(text, cleaned, record["text"], usage)
    return answers, useless


def _figures(records: list[Record], missing: int, told: Tally) -> dict[str, Any]:
    return {
        "queries": len({record["query_id"] for record in records}),
        "answers": len(records),
        "missing": missing,
        "words_per_answer": sum(count_words(record["text"]) for record in records) / max(1, len(records)),
        "told": told.figures(),
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
    if teacher.generator == "local":
        figures["seconds"] = round(outcome.seconds, 1)
    return figures


def _tolerate(outcome: Outcome, wanted: Sequence[Request], tolerance: float, told: Tally) -> None:
    """Count the requests without an answer of use; raise a UserError where they are too many."""
    from qedistill.generation.api import mend

    left = [request for request in wanted if request.key in outcome.useless]
    for request in left:
        told.add(f"requests left out, their answer of no use: {outcome.useless[request.key]}", request.query_id)
    if len(left) <= tolerance * len(wanted):
        return
    kinds = Counter(outcome.useless[request.key] for request in left).most_common()
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds)
    queries = list(dict.fromkeys(request.query_id for request in left))
    named = ", ".join(queries[:5]) + (", …" if len(queries) > 5 else "")
    first = next(request for request in left if outcome.useless[request.key] == kinds[0][0])
    said = one_line(outcome.said.get(first.key, ""))[:80]
    example = f"; to {first.query_id} came “{said}”" if said else ""
    raise UserError(
        f"{len(left)} of {len(wanted)} answers of the teacher are of no use ({counted}; queries {named}{example}), more "
        f"than teacher.tolerance allows: {mend(kinds[0][0])}, raise teacher.asks, which is for all runs together, or "
        "raise the tolerance; answers of use that an API gave are in the ledger"
    )


def generate_locally(requests: Sequence[Request], params: Params) -> Outcome:
    """Answers of `teacher.model` in this process; those of no use are asked for again, by another seed."""
    from qedistill.generation.local import generate
    from qedistill.training.model import load_teacher

    teacher = params.teacher
    model, tokenizer = load_teacher(str(teacher.model))
    outcome = Outcome({})
    pending = list(requests)
    start = time.perf_counter()
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
    outcome.seconds = time.perf_counter() - start
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
        outcome.useless[request.key], outcome.said[request.key] = problem, record["text"]
    else:
        outcome.useless.pop(request.key, None)
        outcome.answers[request.key] = Answer(text, cleaned, record["text"], usage)
