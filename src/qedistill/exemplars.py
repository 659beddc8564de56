"""Which training queries, with which passages, the few-shot prompt shows."""

import random
import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from qedistill.errors import UserError
from qedistill.params import Bm25
from qedistill.params import Exemplars as Wanted
from qedistill.prompts import EVERY, Exemplar, Exemplars
from qedistill.retrieval import Searcher, build_index
from qedistill.text import Qrels, Queries
from qedistill.words import cut_words, plain

_SPARE = 50  # similar queries looked at beyond k, for those that must not be shown


def choose_exemplars(
    queries: Queries, passages: Mapping[str, tuple[str, str]], asked: Queries, qrels: Qrels, params: Wanted, seed: int,
    language: str, bm25: Bm25,
) -> Exemplars:  # fmt: skip
    """k exemplars among the training queries that have a passage.

    `ids` takes those of `params.ids`, `random` k by the seed, `diverse` the queries nearest to the centres of k clusters
    (k-means over TF-IDF of character n-grams, which need no white space); every query is shown the same. `similar`
    gives each query the k training queries BM25 finds for it, the most similar last, next to the query; never itself, nor
    one whose passage is judged relevant to it.

    Args:
        queries: the training queries.
        passages: training query → (doc id, text) of the passage to show.
        asked: all queries the teacher is to answer. None of them that is no training query serves as an exemplar, under
            whatever id.
        qrels: judgments of the training and validation queries among them; used by `similar` alone.

    Raises:
        UserError: an id is no training query, or fewer than k queries have a passage that may be shown.
    """
    k = params.k
    # A query that is asked as a test, too, would show the test its answer.
    tested = {plain(text) for i, text in asked.items() if i not in queries}
    usable = {
        i: text for i, text in queries.items() if passages.get(i, ("", ""))[1].strip() and plain(text) not in tested
    }
    if params.choose == "ids":
        if unknown := sorted(set(params.ids) - set(queries)):
            raise UserError(f"teacher.exemplars.ids: {', '.join(unknown)} are no training queries")
        usable = {i: queries[i] for i in params.ids if i in usable}
    if len(usable) < k:
        raise UserError(f"teacher.exemplars.k: only {len(usable)} of {k} training queries have a passage to show")
    match params.choose:
        case "ids":
            chosen = {EVERY: params.ids}
        case "random":
            chosen = {EVERY: random.Random(seed).sample(sorted(usable), k)}
        case "diverse":
            chosen = {EVERY: _diverse(usable, k, seed)}
        case "similar":
            chosen = _similar(usable, asked, qrels, passages, k, seed, language, bm25)

    def exemplar(query_id: str) -> Exemplar:
        doc_id, text = passages[query_id]
        return Exemplar(query_id, queries[query_id], doc_id, cut_words(text, params.max_words))

    return {query_id: [exemplar(i) for i in ids] for query_id, ids in chosen.items()}


def judged_passages(
    qrels: Qrels, documents: Mapping[str, str], ignore_identical_ids: bool = False
) -> dict[str, tuple[str, str]]:
    """For every query its document of the highest grade (the first of them in the judgments), where it has a relevant
    one with text.

    Args:
        ignore_identical_ids: a query's own document, of the same id, is none.
    """
    best = {}
    for query_id, grades in qrels.items():
        own = query_id if ignore_identical_ids else None
        found = {d: g for d, g in grades.items() if g > 0 and d != own and documents.get(d, "").strip()}
        if found:
            doc_id = max(found, key=found.__getitem__)
            best[query_id] = doc_id, documents[doc_id]
    return best


def _diverse(queries: Queries, k: int, seed: int) -> list[str]:
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    ids = list(queries)
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(queries.values())
    distances = KMeans(k, n_init=10, random_state=seed).fit_transform(vectors)
    taken: list[str] = []
    for cluster in range(k):
        # The nearest that no other cluster has taken.
        nearest = (ids[row] for row in np.argsort(distances[:, cluster], kind="stable"))
        taken.append(next(query_id for query_id in nearest if query_id not in taken))
    return taken


def _similar(
    usable: Queries, asked: Queries, qrels: Qrels, passages: Mapping[str, tuple[str, str]], k: int, seed: int,
    language: str, bm25: Bm25,
) -> dict[str, list[str]]:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        documents = ({"doc_id": i, "title": "", "text": text} for i, text in usable.items())
        build_index(documents, Path(folder) / "index", language, threads=1)
        found = Searcher(Path(folder) / "index", language, bm25).search(asked, k + _SPARE)
    spare = sorted(usable)
    random.Random(seed).shuffle(spare)  # for queries that share no word with k others

    def others(query_id: str) -> list[str]:
        own, grades = plain(asked[query_id]), qrels.get(query_id, {})
        ranked = dict.fromkeys([*found[query_id], *spare])
        allowed = (
            o for o in ranked if o != query_id and plain(usable[o]) != own and grades.get(passages[o][0], 0) <= 0
        )
        chosen = list(islice(allowed, k))
        if len(chosen) < k:
            raise UserError(
                f"teacher.exemplars.k: only {len(chosen)} of {k} training queries may be shown to {query_id}"
            )
        return chosen

    return {query_id: others(query_id)[::-1] for query_id in asked}
