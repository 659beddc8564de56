"""How many times a query stands before its expansion, chosen on validation."""

from qedistill import measures
from qedistill.errors import UserError
from qedistill.params import Retrieval
from qedistill.retrieval.combine import search_expanded
from qedistill.retrieval.lucene import Searcher
from qedistill.text import Qrels, Queries

DEPTH = 10  # nDCG@10 looks no deeper


def choose_weight(
    searcher: Searcher, queries: Queries, qrels: Qrels, expansions: dict[str, list[str]], params: Retrieval
) -> tuple[int, dict[int, float]]:
    """The weight of the best nDCG@10 on validation (the least of equals), and every weight's figure.

    Args:
        queries, qrels: of the validation split.
        expansions: query id → the samples of its expansion.

    Raises:
        UserError: the weight is to be chosen without validation queries.
    """
    if params.query_weight != "auto":
        return params.query_weight, {}
    if not queries:
        raise UserError(
            "retrieval.query_weight is auto, but there are no validation queries to choose it on: set a number"
        )
    figures = {}
    for weight in sorted(params.query_weights):
        run = search_expanded(searcher, queries, expansions, weight, DEPTH, params)
        figures[weight] = float(measures.score(qrels, run, (measures.NDCG,))[measures.NDCG].mean())
    return max(figures, key=lambda weight: figures[weight]), figures
