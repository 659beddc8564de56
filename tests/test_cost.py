"""The cost of an expansion: one protocol on a tiny student, and what a teacher's records tell."""

from pathlib import Path
from typing import Any

import pytest
from tiny import SENTENCES, make_tiny_student

from qedistill.generation.cost import measure, of_teacher
from qedistill.params import Params, load_params

QUERIES = {f"q{i}": text for i, text in enumerate(SENTENCES)}


def with_params(**groups: dict[str, Any]) -> Params:
    params = load_params(Path(__file__).parents[1] / "params.yaml").model_dump()
    for group, values in groups.items():
        for key, value in values.items():
            params[group] = params[group] | {key: params[group][key] | value if isinstance(value, dict) else value}
    return Params.model_validate(params)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_student(tmp_path_factory.mktemp("students") / "base")


def test_a_student_is_measured(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qedistill.generation import local

    asked: list[tuple[int, list[dict[str, Any]]]] = []
    real = local.generate

    def generate(model: Any, tokenizer: Any, prompts: Any, length: int, *others: Any) -> list[dict[str, Any]]:
        asked.append((length, real(model, tokenizer, prompts, length, *others)))
        return asked[-1][1]

    monkeypatch.setattr(local, "generate", generate)
    params = with_params(
        generation={"samples": 2, "max_new_tokens": 6},
        cost={"queries": 5, "batch_sizes": [24, 5, 4], "price_per_hour": 3.6},
    )
    figures = measure(student, None, QUERIES, params)

    whole = [answers for length, answers in asked if length == 6]
    # Of these the first warms up, five are asked alone; 5 and 4 samples are both two queries', 24 more than there are.
    assert [len(answers) for answers in whole] == [2] * 6 + [4, 24]
    alone = [answer for answers in whole[1:6] for answer in answers]
    assert figures["queries"] == 5 and figures["samples"] == 2
    assert figures["completion_tokens_per_query"] == sum(a["completion_tokens"] for a in alone) / 5
    assert figures["prompt_tokens_per_query"] == sum(a["prompt_tokens"] for a in alone) / 10
    assert 0 < figures["latency_p50_seconds"] <= figures["latency_p95_seconds"]
    assert list(figures["batches"]) == ["4", "24"]
    best = figures["batches"][str(figures["batch_size"])]
    assert figures["queries_per_second"] == best["queries_per_second"]
    assert figures["queries_per_second"] == max(b["queries_per_second"] for b in figures["batches"].values())
    weights = (student / "model.safetensors").stat().st_size
    assert figures["peak_memory_mb"] * 1e6 > weights
    assert round(figures["disk_mb"] * 1e6) == sum(file.stat().st_size for file in student.iterdir())
    assert abs(figures["parameters"] * 4 - weights) < 4096  # float32 with a header
    assert figures["price_per_1000_queries"] == pytest.approx(1 / figures["queries_per_second"])


def test_queries_are_the_same_each_time(student: Path) -> None:
    params = with_params(generation={"samples": 1, "max_new_tokens": 1, "temperature": 0.0}, cost={"batch_sizes": [1]})
    first, again = (measure(student, None, queries, params) for queries in (QUERIES, dict(reversed(QUERIES.items()))))
    for key in ("prompt_tokens_per_query", "completion_tokens_per_query", "parameters", "disk_mb"):
        assert first[key] == again[key]
    assert first["price_per_1000_queries"] is None


RECORDS = [
    {"query_id": f"q{i}", "prompt_tokens": 100 * i, "completion_tokens": 10 * i, "seconds": float(i)}
    for i in range(1, 5)
]
PRICES = {"api": {"prices": {"prompt": 2.0, "cached": 1.0, "completion": 8.0}}}


def test_a_teacher_that_was_recorded_without_figures_has_none() -> None:
    figures = of_teacher([{"query_id": "q1", "text": "words"}], with_params(teacher=PRICES))
    assert figures.pop("queries") == figures.pop("samples") == 1
    assert set(figures.values()) == {None}


def test_an_apis_calls_have_latency_and_price() -> None:
    figures = of_teacher(RECORDS, with_params(teacher={"generator": "api", "model": "m", **PRICES}))
    assert (figures["prompt_tokens_per_query"], figures["completion_tokens_per_query"]) == (250, 25)
    assert (figures["latency_p50_seconds"], figures["queries_per_second"]) == (2.5, None)
    assert figures["price_per_1000_queries"] == pytest.approx((250 * 2 + 25 * 8) / 1e6 * 1000)
    # Imported answers have no tokens: what they cost is not known, hence not what all do.
    unknown = [*RECORDS, {"query_id": "q5", "prompt_tokens": 0, "completion_tokens": 0, "seconds": 0.0}]
    figures = of_teacher(unknown, with_params(teacher={"generator": "api", "model": "m", **PRICES}))
    assert figures["prompt_tokens_per_query"] == 250 and figures["price_per_1000_queries"] is None


def test_a_local_teachers_time_makes_a_throughput() -> None:
    params = with_params(teacher={"generator": "local", "model": "m", **PRICES}, cost={"price_per_hour": 3.6})
    untimed = [{key: value for key, value in record.items() if key != "seconds"} for record in RECORDS]
    figures = of_teacher(untimed, params, seconds=10.0)
    assert (figures["latency_p50_seconds"], figures["queries_per_second"]) == (None, 0.4)
    assert figures["price_per_1000_queries"] == pytest.approx(2.5)
