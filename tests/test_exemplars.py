"""Which training queries the few-shot prompt shows."""

from pathlib import Path
from typing import Any

import pytest

from qedistill.errors import UserError
from qedistill.exemplars import choose_exemplars, judged_passages
from qedistill.params import load_params
from qedistill.prompts import EVERY, Exemplar, Exemplars, shown

PARAMS = load_params(Path(__file__).parents[1] / "profiles/pyapi.yaml")
QUERIES = {"a": "first need", "b": "second need", "c": "third need"}
QRELS = {"a": {"d1": 1, "d2": 3}, "b": {"d3": 1}, "c": {"d4": 0}}
DOCS = {"d1": "one", "d2": "two two two", "d3": "three", "d4": "four"}
TOPICS = {
    "sort1": "sort a list of numbers", "sort2": "sort a list of words backwards", "sort3": "sort numbers in a list",
    "file1": "read a file line by line", "file2": "read the last line of a file", "file3": "read a file as text",
    "net1": "download a web page", "net2": "download a page over the web", "net3": "download web pages",
}  # fmt: skip


def choose(
    queries: dict[str, str] = QUERIES,
    asked: dict[str, str] | None = None,
    seed: int = 0,
    qrels: dict[str, dict[str, int]] | None = None,
    **changes: Any,
) -> Exemplars:
    passages = (
        judged_passages(QRELS, DOCS) if queries is QUERIES else {i: (f"d-{i}", text) for i, text in queries.items()}
    )
    wanted = PARAMS.teacher.exemplars.model_copy(update={"choose": "random", "max_words": 2, "k": 1} | changes)
    return choose_exemplars(queries, passages, asked or queries, qrels or {}, wanted, seed, "en", PARAMS.retrieval.bm25)


def ids(exemplars: list[Exemplar]) -> list[str]:
    return [exemplar.query_id for exemplar in exemplars]


def test_passages_are_the_best_judged_documents() -> None:
    assert judged_passages(QRELS, DOCS) == {"a": ("d2", "two two two"), "b": ("d3", "three")}
    assert judged_passages({"a": {"d": 1}}, {"d": "\x1b[1mof an\x00 index"}) == {"a": ("d", "of an index")}
    assert choose(choose="ids", ids=["a"]) == {EVERY: [Exemplar("a", "first need", "d2", "two two")]}


def test_random_by_the_seed() -> None:
    chosen = [ids(choose(seed=seed)[EVERY])[0] for seed in range(9)]
    assert set(chosen) == {"a", "b"}  # c has no relevant document
    assert chosen[0] == ids(choose(seed=0)[EVERY])[0]


def test_too_few_or_unknown() -> None:
    with pytest.raises(UserError, match="only 2 of 3"):
        choose(k=3)
    with pytest.raises(UserError, match="zz are no training queries"):
        choose(choose="ids", ids=["zz"])
    with pytest.raises(UserError, match="only 0 of 1"):
        choose(choose="ids", ids=["c"])


def test_diverse_takes_one_of_each_topic() -> None:
    chosen = choose(TOPICS, choose="diverse", k=3)[EVERY]
    assert {query_id[:-1] for query_id in ids(chosen)} == {"sort", "file", "net"}
    assert choose(TOPICS, choose="diverse", k=3) == {EVERY: chosen}


def test_diverse_never_takes_a_query_twice() -> None:
    assert len(set(ids(choose(TOPICS, choose="diverse", k=9)[EVERY]))) == 9


def test_similar_are_each_querys_own_and_never_itself() -> None:
    asked = TOPICS | {"new": "how to sort numbers", "strange": "xylophone"}
    chosen = choose(TOPICS, asked, choose="similar", k=2)
    for query_id in TOPICS:
        assert query_id not in ids(chosen[query_id]) and {i[:-1] for i in ids(chosen[query_id])} == {query_id[:-1]}
    # The most similar stands last, next to the query.
    assert ids(shown("new", chosen))[-1] in ("sort1", "sort3")
    assert len(ids(chosen["strange"])) == 2  # shares no word with any: by the seed
    assert chosen == choose(TOPICS, asked, choose="similar", k=2)


def test_similar_needs_one_more_than_k() -> None:
    with pytest.raises(UserError, match="only 1 of 2 training queries may be shown to a"):
        choose(choose="similar", k=2)


def test_similar_never_shows_a_judged_document_of_the_query() -> None:
    (first,) = choose(TOPICS, choose="similar", k=1)["sort1"]
    qrels = {"sort1": {first.doc_id: 1, "d-file1": 0}}
    (second,) = choose(TOPICS, choose="similar", k=1, qrels=qrels)["sort1"]
    assert {first.query_id, second.query_id} == {"sort2", "sort3"}


def test_a_test_query_under_another_id_is_no_exemplar() -> None:
    asked = TOPICS | {"t": "Sort a list of numbers!"}
    for way in ("random", "diverse"):
        assert "sort1" not in ids(choose(TOPICS, asked, choose=way, k=8)[EVERY])
    with pytest.raises(UserError, match="only 8 of 9"):
        choose(TOPICS, asked, k=9)
    chosen = choose(TOPICS, asked, choose="similar", k=2)
    assert all("sort1" not in ids(exemplars) for exemplars in chosen.values())


def test_a_twin_is_not_shown_its_own_answer() -> None:
    twins = TOPICS | {"twin": "sort a list of NUMBERS"}
    chosen = choose(twins, choose="similar", k=2)
    assert "twin" not in ids(chosen["sort1"]) and "sort1" not in ids(chosen["twin"])
