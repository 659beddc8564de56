"""Search: BM25 with and without pseudo-relevance feedback, dense vectors, and how query and expansion combine.

Importing this starts no JVM and loads no encoder; building or opening an index does.
"""

from qedistill.retrieval.combine import combine, fuse, search_expanded
from qedistill.retrieval.dense import DenseSearcher, build_dense, with_dense
from qedistill.retrieval.indexes import count_own_documents, fetch_documents, find_documents, open_searcher
from qedistill.retrieval.jvm import start_jvm
from qedistill.retrieval.lucene import Searcher, build_index
from qedistill.retrieval.weight import choose_weight

__all__ = [
    "DenseSearcher", "Searcher", "build_dense", "build_index", "choose_weight", "combine", "count_own_documents",
    "fetch_documents", "find_documents", "fuse", "open_searcher", "search_expanded", "start_jvm", "with_dense",
]  # fmt: skip
