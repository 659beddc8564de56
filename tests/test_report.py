"""The HTML report: what untrusted texts may not do, charts, and the evidence behind it."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from clone import ROOT

from qedistill import report
from qedistill.evaluation import SYSTEMS, evaluate, paired_difference
from qedistill.html import build, charts
from qedistill.params import Params, load_params
from qedistill.retrieval import build_index
from qedistill.text import Run, write_json, write_jsonl, write_qrels, write_queries, write_run

EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&amp;\u2028 {{ 7 * 7 }} ]]>'


def blob(page: str) -> dict[str, Any]:
    """The data of a report, as a browser's HTML parser delimits it: up to the first `</script`."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The default's params in an empty folder, for one test set named `test`."""
    monkeypatch.chdir(tmp_path)
    found = load_params(ROOT / "profiles/pyapi.yaml")
    return found.model_copy(update={"collection": found.collection.model_copy(update={"tests": {"test": "test"}})})


def figures(ndcg: float) -> dict[str, Any]:
    other = {"difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.01}
    return {
        "ndcg@10": ndcg, "ndcg@10_low": ndcg - 0.1, "ndcg@10_high": ndcg + 0.1, "ap": 0.1, "mrr": 0.2,
        "recall@1000": 0.3, "judged@10": 0.4, "vs_query": other, "retention": 0.5, "gain_kept": -0.001,
    }  # fmt: skip


def test_hostile_texts_stay_text(params: Params, tmp_path: Path) -> None:
    documents = [{"doc_id": "<b>d1", "title": EVIL, "text": EVIL}, {"doc_id": "d2", "title": "", "text": "kestrel"}]
    write_jsonl(Path("data/collection/corpus.jsonl"), documents)
    build_index(documents, Path("data/index"), "en", 1)
    write_queries(Path("data/collection/queries/test.tsv"), {"q": EVIL})
    write_qrels(Path("data/collection/qrels/test.txt"), {"q": {"<b>d1": 3}})
    write_jsonl(Path("data/expansions/dpo.jsonl"), [{"query_id": "q", "sample": 0, "text": EVIL}])
    for system in ("query", "dpo"):
        write_run(Path(f"runs/test/{system}.trec"), {"q": {"<b>d1": 2.0, "d2": 1.0}}, system)
        write_json(Path(f"metrics/evaluate/test/{system}.json"), figures(0.5))
    write_json(Path("metrics/retrieve.json"), {"query_weight": {"dpo": 1}})
    build(params, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("</script>") == 2 and "<script>alert" not in page and "<img" not in page and "<b>d1" not in page
    data = blob(page)
    (query,) = data["tests"][0]["queries"]
    assert query["text"] == " ".join(EVIL.split())
    assert query["expansions"] == {"dpo": [EVIL]}
    assert data["docs"][0][:2] == ["<b>d1", EVIL]
    # Nothing but the script's own text nodes ever shows them.
    script = page[page.rindex("<script>") :]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)


def test_without_a_trained_student(params: Params, tmp_path: Path) -> None:
    write_jsonl(Path("data/collection/corpus.jsonl"), [{"doc_id": "d", "title": "", "text": "kestrel"}])
    write_queries(Path("data/collection/queries/test.tsv"), {"q": "kestrel", "r": "kite"})
    write_qrels(Path("data/collection/qrels/test.txt"), {"q": {"d": 1}, "r": {"d": 1}})
    write_run(Path("runs/test/query.trec"), {"q": {"d": 1.0}}, "query")
    write_json(Path("metrics/evaluate/test/query.json"), figures(0.5))
    build(params, tmp_path / "report.html")
    queries = blob((tmp_path / "report.html").read_text())["tests"][0]["queries"]
    assert [(q["id"], q["ndcg"], q["top"]) for q in queries] == [
        ("q", {"query": 1.0}, {"query": [[0, 1]]}),
        ("r", {"query": 0.0}, {"query": []}),
    ]


def test_figures_without_intervals(params: Params, tmp_path: Path) -> None:
    write_queries(Path("data/collection/queries/test.tsv"), {"q": "kestrel", "r": "kite"})
    write_qrels(Path("data/collection/qrels/test.txt"), {"q": {"d": 1}, "r": {"d": 1}})
    documents = [{"doc_id": "d", "title": "", "text": "kestrel"}]
    write_jsonl(Path("data/collection/corpus.jsonl"), documents)
    build_index(documents, Path("data/index"), "en", 1)
    write_json(Path("metrics/retrieve.json"), {"query_weight": {"dpo": 1}})
    write_json(Path("metrics/expand@dpo.json"), {"tokens_per_query": 3.0, "prompt_tokens_per_query": 9.0})
    write_jsonl(Path("data/expansions/dpo.jsonl"), [{"query_id": i, "sample": 0, "text": ""} for i in "qr"])
    found: Run = {"q": {"d": 1.0}, "r": {"d": 1.0}}
    runs: dict[str, Run] = {"query": {}, "dpo": found, "teacher-few-shot": found}
    judged = {"q": {"d": 1}, "r": {"d": 1}}
    for system, values in evaluate(judged, runs, params.evaluation, seed=1).items():
        write_run(Path(f"runs/test/{system}.trec"), runs[system], system)
        write_json(Path(f"metrics/evaluate/test/{system}.json"), values)
    rows = report.rows(Path("metrics"), ["test"])[1]
    assert [row[2:6] for row in rows] == [
        ["0.0000", "–", "(0%)", "–"], ["1.0000", "0.500", "(100%)", "(100%)"], ["1.0000", "0.500", "(100%)", "(100%)"],
    ]  # fmt: skip
    assert report.gains(Path("metrics"), ["test"])[1][1] == ["DPO − query", "+1.000, p 0.500"]
    compared = paired_difference(judged, runs["query"], runs["dpo"], params.evaluation, seed=1)
    assert report.differences("a", "b", {"dpo": compared})[1][0][3:5] == ["+1.0000", "0.500"]
    build(params, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<td>–</td><td>+1.000 (0.500)</td>" in page and "&lt;0.001" not in page and "†</span>" not in page
    # Nothing found by anybody: an axis needs a length all the same.
    nothing = evaluate(judged, {"query": {}, "dpo": {}}, params.evaluation, seed=1)
    ElementTree.fromstring(charts.inline(charts.systems("test", nothing)))
    ElementTree.fromstring(charts.inline(charts.cost("test", "words", nothing, {"dpo": 3.0})))


def test_charts(tmp_path: Path) -> None:
    every = {system: figures(0.1 + 0.1 * n) for n, system in enumerate(SYSTEMS)}
    drawn = [
        charts.systems("a <b> & $x$", every),
        charts.cost("cost", "words", every, {"sft": 40.0, "dpo": 41.0, "teacher-few-shot": 40.0}),
        charts.differences("differences", {"less query": [0.1, -0.2], "less teacher": [0.0, -0.5]}),
        charts.histogram("lengths", "words", {"chosen": [3.0, 4.0], "rejected": [5.0]}, "pairs"),
        charts.counts("sources", "pairs", {"chosen": Counter("aab"), "rejected": Counter("b")}),
        charts.curve("curve", "loss", {"training": [(1, 2.0), (2, 1.0)], "validation": [(2, 1.5)]}),
    ]
    page = "".join(map(charts.inline, drawn))
    ElementTree.fromstring(f"<page>{page}</page>")  # well-formed, whatever the names
    assert "var(--ink)" in page and "#0101" not in page and "<style" not in page
    assert "$x$" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert not [name for name in ids if re.fullmatch(r"[A-Za-z]\w*_\d+", name)]
    charts.write(charts.systems("test", every), tmp_path / "systems.svg")
    picture = (tmp_path / "systems.svg").read_text()
    assert "var(" not in picture and "#0969da" in picture
    charts.write(charts.systems("test", every), tmp_path / "again.svg")
    assert picture == (tmp_path / "again.svg").read_text(), "the same figures give the same file"
