"""The headline figures and the scores of every query."""

import json
import zipfile
from pathlib import Path

import pytest

from qedistill.summary import headline, heads_of, query_rows
from qedistill.text import write_run


def test_the_headline_takes_what_there_is(tmp_path: Path) -> None:
    for name, figures in {
        "evaluate/validation/dpo": {"ndcg@10": 0.3},
        "evaluate/test/dpo": {"ndcg@10": 0.5, "gain_kept": 0.25, "vs_query": {"p": 0.04, "low": -0.1}},
        "evaluate/test/sft": {"ndcg@10": 0.4},
        "evaluate/test.dense/dpo": {"ndcg@10": 0.6},
        "evaluate/other/dpo": {"ndcg@10": 0.7},
        "dpo": {"reward_margin": 0.9, "steps": 7},
        "cost@dpo": {"latency_p50_seconds": 0.02, "queries_per_second": None},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.json").write_text(json.dumps(figures))
    assert headline(tmp_path, ["test", "test.dense"]) == {
        "nDCG@10 of DPO on validation": 0.3,
        "nDCG@10 of DPO on test": 0.5,
        "nDCG@10 of SFT on test": 0.4,
        "teacher gain kept by DPO on test": 0.25,
        "p of DPO against the query on test": 0.04,
        "nDCG@10 of DPO on test.dense": 0.6,
        "reward margin of DPO": 0.9,
        "median seconds a query of DPO": 0.02,
    }


def test_queries_are_ranked_by_what_the_student_changed() -> None:
    qrels = {q: {"d1": 1} for q in ("q1", "q2", "q3")}
    first, second = {"d1": 2.0, "d2": 1.0}, {"d1": 1.0, "d2": 2.0}
    runs = {"query": {"q1": first, "q2": second, "q3": first}, "dpo": {"q1": second, "q2": first, "q3": first}}
    rows = query_rows(qrels, runs, "test")
    loss = 1 - 0.6309297535714575  # 1 / log2(3)
    assert [(row["query_id"], row["rank"], row["split"]) for row in rows] == [
        ("q1", 1, "test"), ("q2", 3, "test"), ("q3", 2, "test"),
    ]  # fmt: skip
    assert [row["difference"] for row in rows] == pytest.approx([-loss, loss, 0])
    assert [row["query"] for row in rows] == pytest.approx([1, 1 - loss, 1])
    assert "difference" not in query_rows(qrels, {"query": runs["query"]}, "test")[0]


def test_heads_of_runs(tmp_path: Path) -> None:
    scores = {f"d{i}": float(-i) for i in range(150)}
    write_run(tmp_path / "runs/test/dpo.trec", {"q1": scores, "q2": {"d1": 1.0}}, "dpo")
    with heads_of(tmp_path / "runs") as archive, zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == ["test/dpo.trec"]
        lines = opened.read("test/dpo.trec").decode().splitlines()
    assert len(lines) == 101 and lines[99].split()[2:4] == ["d99", "100"] and lines[100].startswith("q2 ")
    assert not archive.exists()
