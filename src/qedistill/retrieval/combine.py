"""How a query and its expansion become the text that is searched."""


def combine(query: str, expansion: str, weight: int) -> str:
    """The query `weight` times, then the expansion, one space between: query2doc's concatenation for sparse retrieval.

    Repeating keeps a short query from drowning in a long expansion: BM25 adds up the occurrences of a query term.
    An empty expansion gives the query once, so that it scores as the original query does.

    Source: Wang et al. 2023, arXiv 2303.07678, section 2 (there with weight 5).
    """
    expansion = expansion.strip()
    return " ".join([query] * weight + [expansion]) if expansion else query
