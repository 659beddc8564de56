"""Which index a split is searched in: the one built from the collection, or a prebuilt one of pyserini's."""

import difflib
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from qedistill.errors import UserError
from qedistill.layout import COLLECTION, INDEX
from qedistill.params import Params
from qedistill.retrieval.jvm import start_jvm
from qedistill.retrieval.lucene import Searcher
from qedistill.retrieval.own import own_documents
from qedistill.tally import Tally
from qedistill.text import Qrels, Queries, Run, read_jsonl

PREBUILT = "prebuilt.json"  # in data/index: name → checksum and size of the prebuilt indexes used
_UNPACKED = (
    2.2  # bytes on disk while unpacking, for one of the archive: both stand there, and Lucene's are packed already
)


def open_searcher(params: Params, split: str) -> Searcher:
    """The searcher of a split's index; a prebuilt one that is not on this machine is fetched.

    Raises:
        UserError: there is no such index, or it cannot be fetched.
    """
    name = params.index.of(split)
    folder, wanted = fetch_prebuilt(name) if name else INDEX, params.retrieval
    return Searcher(folder, params.collection.language, wanted.bm25, wanted.ignore_identical_ids)


def fetch_documents(params: Params, split: str, doc_ids: Iterable[str]) -> dict[str, str]:
    """doc id → title and text of those documents of a split's collection that are there.

    Of a prebuilt index they are fetched one by one; those of a collection of our own stand in data/collection.

    Raises:
        UserError: none of them is there (some other collection's index), or the index does not store its documents.
    """
    wanted = set(doc_ids)
    documents = find_documents(params, split, wanted)
    if wanted and not documents and (name := params.index.of(split)):
        raise UserError(
            f"index: none of the {len(wanted)} judged documents of {split} stands in {name}: it is another "
            "collection's index, or one without documents (-slim)"
        )
    return {i: ": ".join(part for part in (doc["title"], doc["text"]) if part) for i, doc in documents.items()}


def find_documents(params: Params, split: str, doc_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """doc id → {"title", "text"} of those documents of a split's collection that are there."""
    wanted = set(doc_ids)
    if params.index.of(split):
        return open_searcher(params, split).documents(wanted)
    return {doc["doc_id"]: doc for doc in read_jsonl(COLLECTION / "corpus.jsonl") if doc["doc_id"] in wanted}


def count_own_documents(params: Params, split: str, queries: Queries, qrels: Qrels, run: Run, tally: Tally) -> None:
    """Count the queries of a split that are documents of its collection and find themselves; where identical ids are
    ignored, those that lose a document judged relevant by that.

    Args:
        run: results of the original queries.
    """
    if params.retrieval.ignore_identical_ids:
        for i in (i for i in queries if qrels[i].get(i, 0) > 0):
            tally.add(f"queries of {split} have a relevant document that retrieval.ignore_identical_ids leaves out", i)
    elif met := [i for i in queries if i in run[i]]:
        for i in own_documents(queries, qrels, find_documents(params, split, met)):
            tally.add(
                f"queries of {split} are documents of the collection and find themselves; for BEIR's figures set "
                "retrieval.ignore_identical_ids to true",
                i,
            )


def describe_prebuilt(name: str) -> dict[str, Any]:
    """Name, checksum (MD5 of the archive) and number of documents, as pyserini knows them.

    Raises:
        UserError: pyserini knows no such index.
    """
    entry = _entry(name)
    return {"name": name, "md5": entry["md5"], "documents": int(entry["documents"])}


def fetch_prebuilt(name: str) -> Path:
    """The folder of a prebuilt index in pyserini's cache (~/.cache/pyserini, or $PYSERINI_CACHE), fetched once.

    Download, checksum and unpacking are pyserini's own; a process that wants the same index waits for it.

    Raises:
        UserError: pyserini knows no such index, the disk is too small, it cannot be downloaded, or is damaged.
    """
    entry = _entry(name)
    from pyserini.util import check_downloaded, download_prebuilt_index, get_cache_home

    indexes = Path(get_cache_home()) / "indexes"
    indexes.mkdir(parents=True, exist_ok=True)
    with FileLock(indexes / f".{name}.lock"):
        if not check_downloaded(name):
            size = int(entry["size compressed (bytes)"])
            free = shutil.disk_usage(indexes).free
            if free < size * _UNPACKED:
                raise UserError(
                    f"index.prebuilt {name}: {indexes} has {free / 1e9:.1f} GB free, about {size * _UNPACKED / 1e9:.1f} "
                    "are needed; point PYSERINI_CACHE to a larger disk"
                )
        try:
            folder = Path(download_prebuilt_index(name, verbose=False))
        except (OSError, ValueError, AssertionError, EOFError, tarfile.TarError) as error:
            raise UserError(f"index.prebuilt {name}: {' '.join(str(error).split())}; run the stage again") from None
    if not any(folder.glob("segments_*")):
        raise UserError(f"{folder}: no Lucene index; remove the folder, and it is fetched again")
    return folder


def _entry(name: str) -> dict[str, Any]:
    registry = _registry()
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=3, cutoff=0.5)
        hint = f"; near to it: {', '.join(near)}" if near else ""
        raise UserError(f"index.prebuilt: pyserini knows no Lucene index {name!r}{hint}")
    return registry[name]


def _registry() -> dict[str, dict[str, Any]]:
    """pyserini's prebuilt inverted indexes by name. Part of the list is Java's, hence the JVM."""
    start_jvm()
    from pyserini.prebuilt_index_info import TF_INDEX_INFO

    return TF_INDEX_INFO
