"""Recorded answers of a teacher."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qedistill.errors import UserError
from qedistill.tally import Tally
from qedistill.text import read_jsonl
from qedistill.words import clean, one_line, says_something

_MOST = 10**9  # tokens or seconds of an answer


def read_answers(
    path: Path, samples: Mapping[str, int], tolerance: float = 0.0, told: Tally | None = None
) -> list[dict[str, Any]]:
    """The recorded answers to the queries asked for, in their order, then by sample.

    Args:
        path: JSON Lines of `{"query_id", "style", "sample", "text"}`, and of an answer's `model`, `prompt_tokens`,
            `completion_tokens` and `seconds` where they are known; others' answers in it are passed over.
        samples: query id → how many answers (samples 0, 1, …) it must have.
        tolerance: share of these answers that may be missing.
        told: where to count what is cleaned, passed over or left out.

    Returns:
        Records with those keys and no others, texts with white space as single spaces.

    Raises:
        UserError: a record lacks a key or one is of a wrong type, an answer stands twice, or answers are missing; those
            are counted and the first are named.
    """
    told = Tally() if told is None else told
    answers: dict[tuple[str, int], dict[str, Any]] = {}
    for number, record in enumerate(read_jsonl(path), 1):
        answer = _answer(record, f"{path}: record {number}", told)
        key = answer["query_id"], answer["sample"]
        if key in answers:
            raise UserError(f"{path}: record {number}: sample {key[1]} of query {key[0]} stands twice")
        answers[key] = answer
    wanted = [(query_id, sample) for query_id, count in samples.items() for sample in range(count)]
    missing = [key for key in wanted if key not in answers]
    if len(missing) > tolerance * len(wanted):
        queries = list(dict.fromkeys(query_id for query_id, _ in missing))
        named = ", ".join(queries[:5]) + (", …" if len(queries) > 5 else "")
        raise UserError(
            f"{path}: {len(missing)} of {len(wanted)} answers are missing, of {len(queries)} queries ({named}): "
            "record them, lower teacher.samples, or raise teacher.tolerance"
        )
    for query_id, _ in missing:
        told.add("recorded answers missing, within teacher.tolerance", query_id)
    for query_id, _ in answers.keys() - set(wanted):
        told.add("recorded answers passed over: not asked for", query_id)
    return [answers[key] for key in wanted if key in answers]


def _answer(record: dict[str, Any], where: str, told: Tally) -> dict[str, Any]:
    query_id, sample, text = (record.get(key) for key in ("query_id", "sample", "text"))
    if not _is_whole(sample) or not isinstance(query_id, str | int) or isinstance(query_id, bool) or query_id == "":
        raise UserError(f"{where}: query_id (a string) and sample (a whole number from 0) are needed")
    query_id = str(query_id)
    if not isinstance(text, str) or not says_something(text):
        raise UserError(f"{where} ({one_line(query_id)}): no text: `text` must be a string that says something")
    if clean(text) != text:
        told.add("recorded answers cleaned: characters that no file can hold", query_id)
    answer: dict[str, Any] = {"query_id": query_id, "sample": sample, "text": one_line(text)}
    known = {
        "model": isinstance(record.get("model"), str),
        "prompt_tokens": _is_whole(record.get("prompt_tokens")),
        "completion_tokens": _is_whole(record.get("completion_tokens")),
        "seconds": _is_seconds(record.get("seconds")),
    }
    for name, good in known.items():
        if good:
            answer[name] = record[name]
        elif record.get(name) is not None:
            told.add(f"recorded answers without their {name}: not of its type", query_id)
    return answer


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_seconds(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= _MOST
    )
