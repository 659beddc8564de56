"""Queries that are documents of the collection, as in ArguAna, Quora and SciDocs: BEIR's rule, and who is told of it."""

from pathlib import Path
from typing import Any

import pytest
import pytrec_eval
from clone import ROOT
from tiny import make_encoder

from qedistill.exemplars import judged_passages
from qedistill.params import Bm25, Params, Rm3, Rocchio, load_params
from qedistill.retrieval import (
    DenseSearcher,
    Searcher,
    build_dense,
    build_index,
    combine,
    count_own_documents,
    search_expanded,
    with_dense,
)
from qedistill.retrieval.own import own_documents
from qedistill.tally import Tally
from qedistill.terms import leave_out
from qedistill.text import Run, write_jsonl

BM25 = Bm25(k1=0.9, b=0.4)
RM3 = Rm3(fb_docs=1, fb_terms=10, original_query_weight=0.2)
ROCCHIO = Rocchio(fb_docs=1, fb_terms=10, alpha=1.0, beta=0.75)
ARGUMENTS = {
    "pro-1": "zoos save rare animals from extinction", "con-1": "zoos keep animals in cages for profit",
    "pro-2": "uniforms make pupils of a school equal", "con-2": "uniforms hide what makes pupils different",
    "pro-3": "nuclear power spares the climate", "con-3": "nuclear power leaves waste for ages",
}  # fmt: skip
FILLERS = {f"filler-{n}": f"number{n} painting" for n in range(60)}
# What opposes an argument is relevant to it; the argument itself is not.
QRELS = {i: {i.replace("pro", "con"): 1} for i in ARGUMENTS if i.startswith("pro")}
QUERIES = {i: ARGUMENTS[i] for i in QRELS}


def documents(texts: dict[str, str]) -> list[dict[str, str]]:
    return [{"doc_id": doc_id, "title": "", "text": text} for doc_id, text in texts.items()]


def params(ignore: bool, **changes: Any) -> Params:
    found = load_params(ROOT / "profiles/own.yaml")
    wanted = found.retrieval.model_copy(update={"ignore_identical_ids": ignore} | changes)
    return found.model_copy(update={"retrieval": wanted})


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arguments") / "index"
    build_index(documents(ARGUMENTS | FILLERS), folder, "en", threads=1)
    return folder


@pytest.fixture(scope="module")
def searcher(index: Path) -> Searcher:
    return Searcher(index, "en", BM25, ignore_identical_ids=True)


def ndcg(run: Run) -> float:
    scores = pytrec_eval.RelevanceEvaluator(QRELS, {"ndcg_cut_10"}).evaluate(run).values()
    return float(sum(score["ndcg_cut_10"] for score in scores) / len(scores))


def popped(run: Run) -> Run:
    """BEIR's rule, as its EvaluateRetrieval.evaluate has it."""
    return {q: {d: score for d, score in found.items() if d != q} for q, found in run.items()}


def test_the_figures_are_beirs(index: Path, searcher: Searcher) -> None:
    every = Searcher(index, "en", BM25).search(QUERIES, 11)
    found = searcher.search(QUERIES, 10)
    assert found == popped(every)
    assert ndcg(found) == 1.0 and ndcg(every) == pytest.approx(0.630930, abs=1e-6)


def test_results_are_as_deep_as_asked_for(index: Path, searcher: Searcher) -> None:
    queries = {"filler-7": "painting number7", "none": "painting"}
    assert {i: len(found) for i, found in searcher.search(queries, 5).items()} == {"filler-7": 5, "none": 5}
    assert "filler-7" in Searcher(index, "en", BM25).search(queries, 5)["filler-7"]


@pytest.mark.parametrize("feedback", [RM3, ROCCHIO])
def test_feedback_does_not_learn_from_the_query_itself(tmp_path: Path, feedback: Rm3 | Rocchio) -> None:
    texts = {
        "q": "kestrel kestrel lantern", "other": "kestrel falcon raptor", "bird": "falcon raptor nesting",
        "light": "lantern oil wick",
    }  # fmt: skip
    build_index(documents(texts | FILLERS), tmp_path / "index", "en", threads=1)
    with_it, without_it = (Searcher(tmp_path / "index", "en", BM25, ignore) for ignore in (False, True))
    # The word of the query's own document alone, against those of the next document.
    assert set(with_it.search({"q": "kestrel"}, 10, feedback)["q"]) == {"q", "other", "light"}
    assert set(without_it.search({"q": "kestrel"}, 10, feedback)["q"]) == {"other", "bird"}
    assert len(without_it.search({"q": "kestrel"}, 1, feedback)["q"]) == 1
    # Who is no document, and who asks nothing, is searched for as ever.
    others = {"x": "kestrel", "empty": "", "stopwords": "the of", "unknown": "xyzzy"}
    assert without_it.search(others, 10, feedback) == with_it.search(others, 10, feedback)


@pytest.mark.parametrize("combined", ["concatenate", "fuse"])
def test_expanded_queries_and_fused_samples(searcher: Searcher, combined: str) -> None:
    samples = {i: ["animals pupils power", "cages waste"] for i in QUERIES}
    found = search_expanded(searcher, QUERIES, samples, 1, 10, params(True, combine=combined).retrieval)
    assert all(i not in found[i] and QRELS[i].keys() <= found[i].keys() for i in QUERIES)
    # Searches of several candidates of a query go by keys of their own.
    asked = {str(n): combine(text, "animals", 1) for n, text in enumerate(QUERIES.values())}
    owners = {str(n): i for n, i in enumerate(QUERIES)}
    assert all(owners[key] not in scores for key, scores in searcher.search(asked, 10, owners=owners).items())
    assert all(owners[key] in scores for key, scores in searcher.search(asked, 10).items())


def test_words_left_out_are_searched_alike(tmp_path: Path) -> None:
    # Without the own document, which has all words, `falcon` alone finds what is relevant; and that some document is
    # called as a word is does not hide it.
    texts = {"q": "kestrel falcon", "good": "falcon", "falcon": "falcon nest"}
    build_index(documents(texts | FILLERS), tmp_path / "index", "en", threads=1)
    searcher = Searcher(tmp_path / "index", "en", BM25, ignore_identical_ids=True)
    found = leave_out(searcher, {"q": "kestrel"}, {"q": {"good": 1}}, {"q": ["falcon"]}, 1, params(True).retrieval, 99)
    assert [(term.word, term.difference) for term in found["q"]] == [("falcon", pytest.approx(1.0))]


def test_by_vectors_and_fused(tmp_path: Path, searcher: Searcher) -> None:
    words = sorted({word for text in ARGUMENTS.values() for word in text.split()})
    vectors = {word: [float(n == m) for m in range(len(words))] for n, word in enumerate(words)}
    wanted = params(True).dense.model_copy(update={"encoder": str(make_encoder(tmp_path / "encoder", vectors))})
    build_dense(documents(ARGUMENTS), tmp_path / "dense", wanted)
    alone = {i: [""] for i in QUERIES}
    every = DenseSearcher(tmp_path / "dense", wanted).search(QUERIES, 5)
    dense = DenseSearcher(tmp_path / "dense", wanted, ignore_identical_ids=True)
    runs = with_dense(searcher.search(QUERIES, 5), dense, QUERIES, alone, 5)
    assert all(next(iter(every[i])) == i for i in QUERIES)
    for run in runs.values():
        assert all(i not in run[i] and next(iter(run[i])) in QRELS[i] for i in QUERIES)
    assert {len(found) for found in runs["dense"].values()} == {5}
    keyed = dense.search_expanded({"0": ARGUMENTS["pro-1"]}, {"0": [""]}, 5, {"0": "pro-1"})
    assert "pro-1" not in keyed["0"]


def test_exemplars_show_no_query_its_own_document() -> None:
    qrels = {"a": {"a": 3, "b": 1}, "c": {"c": 1}}
    texts = {"a": "the query a", "b": "an answer", "c": "the query c"}
    assert judged_passages(qrels, texts, ignore_identical_ids=True) == {"a": ("b", "an answer")}
    assert judged_passages(qrels, texts)["a"] == ("a", "the query a")


def told(monkeypatch: pytest.MonkeyPatch, folder: Path, ignore: bool, texts: dict[str, str], run: Run) -> list[str]:
    monkeypatch.chdir(folder)
    write_jsonl(Path("data/collection/corpus.jsonl"), documents(texts))
    tally = Tally()
    count_own_documents(params(ignore), "test", QUERIES, QRELS | {"pro-3": {"pro-3": 1}}, run, tally)
    return tally.lines()


def test_who_needs_the_setting_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = {i: {i: 2.0, "con-1": 1.0} for i in QUERIES}
    (line,) = told(monkeypatch, tmp_path, False, ARGUMENTS, run)
    assert line.startswith("2 queries of test are documents of the collection and find themselves; ")
    assert line.endswith(" set retrieval.ignore_identical_ids to true (pro-1, pro-2)")
    assert told(monkeypatch, tmp_path, True, ARGUMENTS, run) == [
        "1 queries of test have a relevant document that retrieval.ignore_identical_ids leaves out (pro-3)"
    ]
    # Of the same ids, and nothing else in common.
    assert told(monkeypatch, tmp_path, False, dict.fromkeys(ARGUMENTS, "zoos and uniforms"), run) == []
    assert told(monkeypatch, tmp_path, False, ARGUMENTS, {i: {"con-1": 1.0} for i in QUERIES}) == []


def test_which_queries_are_documents() -> None:
    queries = {
        "1": "What makes Dough rise", "2": "Attention is all you need", "3": "a passage of five words",
        "4": "salt", "5": "面包为什么发酵", "6": "title and text", "7": "a passage of five words",
    }  # fmt: skip
    docs = {
        "1": ("", "what makes dough rise?"),  # Quora: a question
        "2": ("Attention Is All You Need", "The dominant sequence transduction models"),  # SciDocs: a paper's title
        "3": ("Debate", "There is a passage of five words, and more."),  # ArguAna: part of the text
        "4": ("Glass", "sand, soda and salt"),  # numbered alike, and a word in common
        "5": ("", "面包为什么发酵？"),
        "6": ("Title", "and text"),
        "7": ("", "another text"),
    }
    found = own_documents(queries, {}, {i: {"title": title, "text": text} for i, (title, text) in docs.items()})
    assert found == ["1", "2", "3", "5", "6"]
