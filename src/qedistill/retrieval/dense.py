"""Dense retrieval: texts become vectors of a sentence-transformers encoder, FAISS finds the nearest documents."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qedistill.errors import UserError, why_unloadable
from qedistill.params import Dense
from qedistill.progress import track
from qedistill.retrieval.combine import combine, fuse
from qedistill.retrieval.jvm import start_jvm
from qedistill.retrieval.lucene import batches
from qedistill.retrieval.own import owned, without
from qedistill.text import Queries, Run, read_json, write_json
from qedistill.words import clean, one_line

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

INDEX, DOC_IDS, ABOUT = "index", "docid", "dense.json"  # the first two as pyserini's FaissSearcher reads them
CHUNK = 16  # batches that are encoded at once: the encoder sorts them by length, and the bar moves after each
SEARCH_BATCH = 200  # queries
_ANEW = "remove the folder, and `dvc repro` makes or fetches it again"


class Encoder:
    """Texts as rows of a float32 matrix, of unit length unless the encoder says that it compares by dot product.

    Raises:
        UserError: the packages of the extra `dense` are not installed, there is no such encoder, or its vectors hold
            what is no number.
    """

    def __init__(self, params: Dense) -> None:
        self._params = params
        self._model = _load(str(params.encoder))
        self.normalized = self._model.similarity_fn_name != "dot"
        self.dimension = int(self._model.get_embedding_dimension() or 0)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Shape (texts, dimension); `query_prefix`, else the encoder's own prompt for queries, stands before each."""
        return self._encode(self._model.encode_query, texts, prompt=self._params.query_prefix)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Shape (texts, dimension); with the encoder's own prompt for documents, if it has one."""
        return self._encode(self._model.encode_document, texts)

    def _encode(self, encode: Any, texts: Sequence[str], **options: Any) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        size = self._params.batch_size
        rows = [
            encode(chunk, batch_size=size, normalize_embeddings=self.normalized, show_progress_bar=False, **options)
            for chunk in batches([clean(text) for text in texts], size * CHUNK)
        ]
        vectors = np.concatenate(rows).astype(np.float32)
        if not np.isfinite(vectors).all():
            raise UserError(f"dense.encoder {self._params.encoder}: its vectors hold NaN or infinity; take another")
        return vectors


def build_dense(documents: Iterable[Mapping[str, str]], folder: Path, params: Dense, total: int | None = None) -> int:
    """Encode documents {"doc_id", "title", "text"} and index the vectors; returns how many are in the index.

    Title and text are encoded as one, as BM25 indexes them, and cut where the encoder's input ends. Documents without
    any text are left out. Only the index holds all vectors in memory: 4 bytes times the encoder's dimension each.

    Args:
        total: number of documents, for the bar.

    Raises:
        UserError: no document has text, or the encoder cannot be loaded.
    """
    encoder = Encoder(params)
    index = _new_index(encoder.dimension, params)
    doc_ids: list[str] = []
    for chunk in batches(track(documents, "Embedding", total), params.batch_size * CHUNK):
        texts = {d["doc_id"]: text for d in chunk if (text := f"{d['title']}\n{d['text']}".strip())}
        if texts:
            index.add(encoder.documents(list(texts.values())))
            doc_ids += texts
    if not doc_ids:
        raise UserError("the collection is empty: no document has a title or a text")
    folder.mkdir(parents=True, exist_ok=True)
    _faiss().write_index(index, str(folder / INDEX))
    (folder / DOC_IDS).write_text("".join(f"{doc_id}\n" for doc_id in doc_ids), encoding="utf-8")
    note(folder, params)
    return len(doc_ids)


def note(folder: Path, params: Dense) -> None:
    """Note in the folder which encoder and index it stands for."""
    write_json(folder / ABOUT, {"encoder": params.encoder, "index": params.index})


class DenseSearcher:
    """Search over what `build_dense` wrote, or over a prebuilt index of pyserini's.

    Args:
        ignore_identical_ids: as a `Searcher`'s.

    Raises:
        UserError: the folder stands for another encoder or index, or holds none; the index has vectors of another
            dimension than the encoder; no such prebuilt index.
    """

    def __init__(self, folder: Path, params: Dense, ignore_identical_ids: bool = False) -> None:
        about = read_json(folder / ABOUT) if (folder / ABOUT).exists() else None
        if about != {"encoder": params.encoder, "index": params.index}:
            raise UserError(f"{folder}: no index by dense.encoder and dense.index; `dvc repro embed` builds it")
        if not params.builds:
            folder, _ = fetch_prebuilt(params.index)
        self._params = params
        self._ignores = ignore_identical_ids
        self._encoder = Encoder(params)
        try:
            self._index = _faiss().read_index(str(folder / INDEX))
            self._doc_ids = (folder / DOC_IDS).read_text(encoding="utf-8").splitlines()
        except (OSError, RuntimeError, ValueError) as error:  # FAISS raises the second for all that it cannot read
            raise UserError(f"{folder}: the index cannot be read ({one_line(error)[:200]}): {_ANEW}") from None
        if self._index.ntotal != len(self._doc_ids):
            raise UserError(f"{folder}: {self._index.ntotal} vectors, but {len(self._doc_ids)} document ids: {_ANEW}")
        if self._index.d != self._encoder.dimension:
            raise UserError(
                f"dense.encoder {params.encoder} gives vectors of {self._encoder.dimension}, dense.index {params.index} "
                f"holds vectors of {self._index.d}: name the encoder that the index was made with"
            )
        if params.index == "hnsw":
            self._index.hnsw.efSearch = params.hnsw.ef_search

    def search(self, queries: Queries, depth: int, owners: Mapping[str, str] | None = None) -> Run:
        """The best `depth` documents of every query and their scores (cosine or dot product), best first.

        Args:
            owners: as in `Searcher.search`.
        """
        return self._nearest(queries, self._encoder.queries(list(queries.values())), depth, owners)

    def search_expanded(
        self,
        queries: Queries,
        expansions: dict[str, list[str]],
        depth: int,
        owners: Mapping[str, str] | None = None,
    ) -> Run:
        """Search with every query and all samples of its expansion, as `params.expansion` combines them.

        `concatenate` encodes the query and its samples, one behind the other, as one query. `mean` takes the mean of
        the query's vector and those of the samples, each encoded as a document. The query counts once in both, and an
        empty sample not at all.

        Args:
            expansions: query id → its samples, one at least.
            owners: as in `Searcher.search`.

        Source: Wang et al. 2023, arXiv 2303.07678, section 2 (`concatenate`, there with [SEP] between);
            Gao et al. 2022, arXiv 2212.10496, equation 8 (`mean`).
        """
        if self._params.expansion == "concatenate":
            texts = {i: combine(text, " ".join(expansions[i]), 1) for i, text in queries.items()}
            return self.search(texts, depth, owners)
        vectors = self._encoder.queries(list(queries.values()))
        owned = [(row, text) for row, i in enumerate(queries) for text in expansions[i] if text.strip()]
        rows = np.array([row for row, _ in owned], dtype=int)
        np.add.at(vectors, rows, self._encoder.documents([text for _, text in owned]))
        vectors /= 1 + np.bincount(rows, minlength=len(vectors))[:, None]
        if self._encoder.normalized:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return self._nearest(queries, vectors.astype(np.float32), depth, owners)

    def _nearest(self, queries: Queries, vectors: np.ndarray, depth: int, owners: Mapping[str, str] | None) -> Run:
        own = owned(queries, owners, self._ignores)
        hits = min(depth + bool(own), len(self._doc_ids))
        run: Run = {}
        for batch in track(list(batches(enumerate(queries), SEARCH_BATCH)), "Searching by vectors"):
            scores, places = self._index.search(vectors[[row for row, _ in batch]], hits)
            for (_, key), found, values in zip(batch, places.tolist(), scores.tolist(), strict=True):
                # HNSW may find fewer than asked for: -1 then.
                near = {self._doc_ids[n]: s for n, s in zip(found, values, strict=True) if n >= 0}
                run[key] = without(near, own.get(key), depth)
        return run


def with_dense(
    sparse: Run, dense: DenseSearcher | None, queries: Queries, expansions: dict[str, list[str]] | None, depth: int
) -> dict[str, Run]:
    """retriever → run: the sparse one given, and where there is a dense searcher its own and both fused.

    Args:
        expansions: as in `search_expanded`; None where the system is BM25's alone.
    """
    if dense is None or expansions is None:
        return {"sparse": sparse}
    found = dense.search_expanded(queries, expansions, depth)
    return {"sparse": sparse, "dense": found, "fused": fuse([sparse, found], depth)}


def fetch_prebuilt(name: str) -> tuple[Path, int]:
    """The folder of a prebuilt FAISS index of pyserini's and how many documents it holds; the folder is in pyserini's
    cache ($PYSERINI_CACHE, else ~/.cache/pyserini), downloaded and checked by MD5 where it is not there.

    Raises:
        UserError: pyserini has none of this name, or it could not be downloaded.
    """
    known = prebuilt_indexes()
    if name not in known:
        near = ", ".join(get_close_matches(name, known, 3)) or "see pyserini.prebuilt_index_info.FAISS_INDEX_INFO"
        raise UserError(f"dense.index is {name}: neither exact nor hnsw, nor a FAISS index of pyserini's ({near})")
    from pyserini.util import download_prebuilt_index

    try:
        return Path(download_prebuilt_index(name, verbose=False)), int(known[name]["documents"])
    except (OSError, ValueError, AssertionError) as error:  # no network, no such address, another size or MD5
        raise UserError(f"dense.index {name}: could not be downloaded: {one_line(error)}") from None


def prebuilt_indexes() -> dict[str, dict[str, Any]]:
    """pyserini's registry of FAISS indexes: name → addresses, MD5, size, documents."""
    start_jvm()  # the registry holds the Lucene indexes too, which Java knows
    from pyserini.prebuilt_index_info import FAISS_INDEX_INFO

    registry: dict[str, dict[str, Any]] = FAISS_INDEX_INFO
    return registry


def _new_index(dimension: int, params: Dense) -> Any:
    faiss = _faiss()
    if params.index == "exact":
        return faiss.IndexFlatIP(dimension)
    faiss.omp_set_num_threads(1)  # several would link the graph in an order that varies
    index = faiss.IndexHNSWFlat(dimension, params.hnsw.m, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = params.hnsw.ef_construction
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise UserError("dense.encoder needs FAISS: pip install 'qedistill[dense]'") from None
    return faiss


def _load(encoder: str) -> "SentenceTransformer":
    """An encoder, all of whose weights are its own; neither code nor pickles that come with it are run.

    Raises:
        UserError: the package is not installed, or there is no such encoder, or a damaged one.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise UserError("dense.encoder needs sentence-transformers: pip install 'qedistill[dense]'") from None
    from huggingface_hub import hf_hub_download
    from transformers.utils import logging

    logging.disable_progress_bar()  # of the weights, which load in a blink
    if encoder.startswith("package:"):
        encoder = in_package(encoder.removeprefix("package:"))
    folder = Path(encoder).expanduser()
    try:
        if not folder.is_dir():  # SentenceTransformer would try for minutes to reach a hub that is out of reach
            hf_hub_download(encoder, "config.json")
        model = SentenceTransformer(
            str(folder) if folder.is_dir() else encoder,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # noqa: BLE001 - damaged files make readers raise what they like
        raise UserError(f"dense.encoder {encoder}: cannot be loaded: {why_unloadable(error)}") from None
    if missing := _made_up(model):
        raise UserError(
            f"dense.encoder {encoder}: its weights do not fit its config.json, as they lack {len(missing)} tensors "
            f"({missing[0]}): get its files again, all of one model"
        )
    return model


def _made_up(model: "SentenceTransformer") -> list[str]:
    """The tensors that transformers filled in by chance, as the files have none; not a head that no encoder looks at."""
    from transformers import PreTrainedModel

    loaded = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    tensors = {name: values for part in loaded for name, values in part.named_parameters()}
    read = {name for name, values in tensors.items() if getattr(values, "_is_hf_initialized", False)}
    return sorted(name for name in tensors.keys() - read if not name.startswith("pooler.")) if read else []


def in_package(name: str) -> str:
    """The folder of the one sentence-transformers model that an installed package carries."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise UserError(f"dense.encoder package:{name}: it is not installed; pip install {name}") from None
    models = [file for file in package.files or [] if file.name == "modules.json"]
    if len(models) != 1:
        raise UserError(f"dense.encoder package:{name}: it carries {len(models)} sentence-transformers models, not one")
    return str(Path(str(package.locate_file(models[0]))).parent)
