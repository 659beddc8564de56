"""How a query and its expansions become what is searched."""

from collections.abc import Mapping, Sequence

import ranx

from qedistill.params import Retrieval
from qedistill.progress import track
from qedistill.retrieval.lucene import Searcher
from qedistill.text import Queries, Run

FUSED_DEPTH = 100  # results of a sample that are fused, at least; the constant 60 of the fusion makes more worth little


def combine(query: str, expansion: str, weight: int) -> str:
    """The query `weight` times, then the expansion, one space between: query2doc's concatenation for sparse retrieval.

    Repeating keeps a short query from drowning in a long expansion: BM25 adds up the occurrences of a query term.
    An empty expansion gives the query once, so that it scores as the original query does.

    Source: Wang et al. 2023, arXiv 2303.07678, section 2 (there with weight 5).
    """
    expansion = expansion.strip()
    return " ".join([query] * weight + [expansion]) if expansion else query


def search_expanded(
    searcher: Searcher,
    queries: Queries,
    expansions: dict[str, list[str]],
    weight: int,
    depth: int,
    params: Retrieval,
    owners: Mapping[str, str] | None = None,
) -> Run:
    """Search with every query and all samples of its expansion.

    `concatenate` puts the samples one behind the other, so that a term many samples name counts many times; `fuse`
    searches with the query and each sample alone, and fuses the results by reciprocal rank.

    Args:
        expansions: query id → its samples, one at least.
        owners: as in `Searcher.search`.

    Source: Cormack et al. 2009, Reciprocal Rank Fusion Outperforms Condorcet, SIGIR (`fuse`, with its constant of 60).
    """
    if params.combine == "concatenate":
        texts = {i: combine(text, " ".join(expansions[i]), weight) for i, text in queries.items()}
        return searcher.search(texts, depth, owners=owners)
    samples = {f"{n} {i}": (i, text) for i in queries for n, text in enumerate(expansions[i])}
    alone = {key: combine(queries[i], text, weight) for key, (i, text) in samples.items()}
    own = {key: i if owners is None else owners[i] for key, (i, _) in samples.items()}
    found = searcher.search(alone, max(depth, FUSED_DEPTH), owners=own)
    return {i: _fuse([found[f"{n} {i}"] for n in range(len(expansions[i]))], depth) for i in queries}


def fuse(runs: Sequence[Run], depth: int) -> Run:
    """Runs over the same queries, as of several retrievers, fused by reciprocal rank and cut to a depth.

    Source: Cormack et al. 2009, Reciprocal Rank Fusion Outperforms Condorcet, SIGIR (with its constant of 60).
    """
    return {i: _fuse([run[i] for run in runs], depth) for i in track(runs[0], "Fusing", len(runs[0]))}


def _fuse(runs: Sequence[dict[str, float]], depth: int) -> dict[str, float]:
    """Results of one query, fused and cut to a depth."""
    if len(runs) == 1:
        return dict(list(runs[0].items())[:depth])
    # Names of one length: ranx compiles its loops anew for every width of the longest document id.
    names = {doc_id: f"{n:08d}" for n, doc_id in enumerate(dict.fromkeys(d for run in runs for d in run))}
    if not names:
        return {}
    documents = list(names)
    fused = ranx.fuse(
        [ranx.Run({"query": {names[d]: s for d, s in run.items()} or {"none": 0.0}}) for run in runs],
        norm=None,
        method="rrf",
    )
    ranked = [(name, score) for name, score in fused.to_dict()["query"].items() if name != "none"]
    return {documents[int(name)]: score for name, score in sorted(ranked, key=lambda item: -item[1])[:depth]}
