"""How many times a query stands before its expansion, chosen on validation."""

from qedistill import measures
from qedistill.errors import UserError
from qedistill.params import Retrieval
from qedistill.retrieval.combine import search_expanded
from qedistill.retrieval.lucene import Searcher
from qedistill.text import Qrels, Queries

DEPTH = 10  # nDCG@10 looks no deeper


def choose_weight(
    searcher: Searcher,
    queries: Queries,
    qrels: Qrels,
    systems: dict[str, dict[str, list[str]]],
    params: Retrieval,
) -> tuple[int, dict[str, dict[int, float]]]:
    """One weight for several systems, of the best mean of their nDCG@10 on validation (the least of equals), and every
    system's figure at every weight.

    One for all, so that systems are compared at the same weight: chosen for each alone, on some dozens of queries, it
    varies more than the systems do.

    Args:
        queries, qrels: of the validation split.
        systems: system → query id → the samples of its expansion.

    Raises:
        UserError: the weight is to be chosen without validation queries.
    """
    if params.query_weight != "auto":
        return params.query_weight, {}
    if not queries:
        raise UserError(
            "retrieval.query_weight is auto, but there are no validation queries to choose it on: set a number"
        )

    def ndcg(expansions: dict[str, list[str]], weight: int) -> float:
        run = search_expanded(searcher, queries, expansions, weight, DEPTH, params)
        return float(measures.score(qrels, run, (measures.NDCG,))[measures.NDCG].mean())

    weights = sorted(params.query_weights)
    figures = {system: {w: ndcg(expansions, w) for w in weights} for system, expansions in systems.items()}
    return max(weights, key=lambda w: sum(by_weight[w] for by_weight in figures.values())), figures
