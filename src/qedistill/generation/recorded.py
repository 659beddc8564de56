"""Recorded answers of a teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qedistill.errors import UserError
from qedistill.text import read_jsonl


def read_answers(path: Path, samples: Mapping[str, int], tolerance: float = 0.0) -> list[dict[str, Any]]:
    """The recorded answers to the queries asked for, in their order, then by sample.

    Args:
        path: JSON Lines of `{"query_id", "style", "sample", "text"}`; others' answers in it are passed over.
        samples: query id → how many answers (samples 0, 1, …) it must have.
        tolerance: share of these answers that may be missing.

    Raises:
        UserError: a line lacks a key, an answer stands twice, or answers are missing; those are counted and the first
            are named.
    """
    answers: dict[tuple[str, int], dict[str, Any]] = {}
    for number, record in enumerate(read_jsonl(path), 1):
        if not (isinstance(record.get("query_id"), str) and isinstance(record.get("sample"), int)):
            raise UserError(f"{path}: record {number}: query_id (a string) and sample (a whole number) are needed")
        if not isinstance(record.get("text"), str) or not record["text"].strip():
            raise UserError(f"{path}: record {number} ({record['query_id']}): no text")
        key = record["query_id"], record["sample"]
        if key in answers:
            raise UserError(f"{path}: record {number}: sample {key[1]} of query {key[0]} stands twice")
        answers[key] = record
    wanted = [(query_id, sample) for query_id, count in samples.items() for sample in range(count)]
    missing = [key for key in wanted if key not in answers]
    if len(missing) > tolerance * len(wanted):
        queries = list(dict.fromkeys(query_id for query_id, _ in missing))
        named = ", ".join(queries[:5]) + (", …" if len(queries) > 5 else "")
        raise UserError(
            f"{path}: {len(missing)} of {len(wanted)} answers are missing, of {len(queries)} queries ({named}): "
            "record them, lower teacher.samples, or raise teacher.tolerance"
        )
    return [answers[key] for key in wanted if key in answers]
