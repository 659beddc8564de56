"""A student's expansions."""

import time
from pathlib import Path
from typing import Any

from qedistill.params import Params
from qedistill.prompts import Messages
from qedistill.tally import Tally
from qedistill.text import Queries, read_json


def make_prompts(
    student: Path, base: Path | None, queries: Queries, params: Params, tally: Tally
) -> dict[str, Messages]:
    """Query id → what a student is asked; a query that leaves no room for an answer is cut, and counted.

    Args:
        student: folder of the plain model, or of an adapter on that in `base`.

    Raises:
        UserError: there is no student, or no room for any query.
    """
    from qedistill.chat import fit_query
    from qedistill.training.data import student_prompt
    from qedistill.training.model import load_tokenizer, positions

    def ask(query: str) -> Messages:
        return student_prompt(query, params.student, params.collection, trained=base is not None)

    tokenizer = load_tokenizer(student)
    if (most := positions(read_json((base or student) / "config.json"))) is None:
        return {query_id: ask(text) for query_id, text in queries.items()}
    prompts = {}
    for query_id, text in queries.items():
        fitting = fit_query(tokenizer, text, ask, most - params.generation.max_new_tokens)
        if fitting != text:
            tally.add(f"queries cut for the student: it reads {most} tokens with its answer", query_id)
        prompts[query_id] = ask(fitting)
    return prompts


def expand(
    student: Path,
    base: Path | None,
    queries: Queries,
    samples: int,
    temperature: float,
    params: Params,
    tally: Tally | None = None,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A student's expansions, `samples` of each query at a temperature, and what they cost.

    They are written by the model in this process or, where `generation.server` is set, by that server.

    Args:
        student: folder of the plain model, or of an adapter on that in `base`.
        tally: counts queries that are cut for the student.

    Returns:
        Records as `generation.local.generate` gives them, white space as single spaces, with `style` ("student") and
        `model` (the folder's name); and queries, samples, tokens_per_query (completions of all samples together), prompt_tokens_per_query, seconds,
        tokens_per_second (completions).
    """
    from qedistill.generation import local, server
    from qedistill.training.model import load_student

    prompts = make_prompts(student, base, queries, params, tally or Tally())
    wanted = params.generation
    if wanted.server:
        start = time.perf_counter()
        answers = server.generate(student, base, prompts, samples, temperature, wanted, params.seed)
    else:
        model, tokenizer = load_student(student, base)
        start = time.perf_counter()
        answers = local.generate(
            model, tokenizer, prompts, wanted.max_new_tokens, temperature, samples, wanted.batch_size, params.seed
        )
    seconds = time.perf_counter() - start
    tokens = sum(answer["completion_tokens"] for answer in answers)
    # A prompt is read once, whatever the number of its samples.
    read = sum(answer["prompt_tokens"] for answer in answers if answer["sample"] == 0)
    records = [
        {"style": "student", "model": student.name} | answer | {"text": " ".join(answer["text"].split())}
        for answer in answers
    ]
    return records, {
        "queries": len(queries),
        "samples": samples,
        "tokens_per_query": tokens / len(queries),
        "prompt_tokens_per_query": read / len(queries),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
    }
