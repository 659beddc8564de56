"""BM25 and pseudo-relevance feedback: Anserini's Lucene, through pyserini's bindings."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qedistill.errors import UserError
from qedistill.params import Bm25, Rm3, Rocchio
from qedistill.progress import track
from qedistill.retrieval.jvm import java_class
from qedistill.retrieval.own import owned, without
from qedistill.text import Queries, Run
from qedistill.words import clean, one_line

T = TypeVar("T")

INDEX_BATCH = 5_000  # documents handed to Java at once; few enough to hold in memory, enough to keep threads busy
SEARCH_BATCH = 200  # queries: at depth 1,000, some 100 MB of hits in Java
INDEX_BUFFER = 512.0  # MB of postings before Lucene flushes; Anserini's 2,048 overflow the heap of a machine of 8 GB
THREADS = 1  # Anserini 1.7 takes the number, and uses every processor the process may run on all the same
_TEXT_KEYS = ("text", "contents", "passage", "body")  # MIRACL and Mr. TyDi; JsonCollection; MS MARCO v2
# A key that tells a stored document's collection class, as pyserini's LuceneSearcher.set_rm3 has them by index.
_PARSERS = {"contents": "JsonCollection", "passage": "MsMarcoV2PassageCollection"}
RM3_DOCS = 50  # Anserini ranks so many documents before RM3 (SearchCollection's rerankcutoff)


def build_index(documents: Iterable[Mapping[str, str]], folder: Path, language: str, threads: int) -> int:
    """Index documents {"doc_id", "title", "text"}, title and text as one field; returns how many are in the index.

    The caller sees to it that a whole folder appears or none (`text.atomic`). Documents without any text are left
    out, as Anserini does. One thread writes the same bytes each time it is a process's first index. Several decide in
    which order Lucene numbers the documents, but not what is found: statistics are of the whole collection, and ties are
    broken by doc_id.

    Raises:
        UserError: no document has text, Lucene did not take them all, or it has no analyser for the language.
    """
    _check_language(language)
    indexer = java_class("io.anserini.index.SimpleIndexer")(
        # Positions for phrase queries, document vectors for RM3 and Rocchio.
        ["-collection", "JsonCollection", "-input", "", "-index", str(folder.resolve()), "-language", language]
        + ["-threads", str(threads), "-storePositions", "-storeDocvectors"]
    )
    config = indexer.writer.getConfig()
    config.setRAMBufferSizeMB(INDEX_BUFFER)
    if threads == 1:  # merges run in threads of their own: what they find to merge depends on the time
        config.setMergePolicy(java_class("org.apache.lucene.index.NoMergePolicy").INSTANCE)
    given = 0
    try:
        for batch in batches(_anserini_json(documents), INDEX_BATCH):
            given += len(batch)
            indexer.addRawDocuments(batch)
    finally:
        indexer.close()
    if not given:
        raise UserError("the collection is empty: no document has a title or a text")
    # Java only logs a document or a commit that failed; what is on disk tells.
    indexed = _open(folder).get_total_num_docs()
    if indexed != given:
        raise UserError(f"only {indexed} of {given} documents were indexed: is the disk of {folder.parent} full?")
    _forget_making(folder)
    return indexed


def _forget_making(folder: Path) -> None:
    """Take out of an index what Lucene notes of the making of its segments: the time, the machine and its Java.

    Lucene's version stays: Anserini breaks ties by doc_id only where it finds that.
    """
    directory = java_class("org.apache.lucene.store.FSDirectory").open(
        java_class("java.io.File")(str(folder.resolve())).toPath()
    )
    context, version = java_class("org.apache.lucene.store.IOContext").DEFAULT, "lucene.version"
    for segment in java_class("org.apache.lucene.index.SegmentInfos").readLatestCommit(directory).asList().toArray():
        old = segment.info
        kept = java_class("java.util.HashMap")()
        kept.put(version, old.getDiagnostics().get(version))
        new = java_class("org.apache.lucene.index.SegmentInfo")(
            directory, old.getVersion(), old.getMinVersion(), old.name, old.maxDoc(), old.getUseCompoundFile(),
            old.getHasBlocks(), old.getCodec(), kept, old.getId(), old.getAttributes(), old.getIndexSort(),
        )  # fmt: skip
        new.setFiles(old.files())
        directory.deleteFile(f"{old.name}.si")
        old.getCodec().segmentInfoFormat().write(directory, new, context)
    directory.close()


class Searcher:
    """BM25 search over a Lucene index, `build_index`'s or a prebuilt one, with or without pseudo-relevance feedback.

    Args:
        ignore_identical_ids: a query finds no document of its own id, and feedback does not learn from it.

    Raises:
        UserError: there is no index in the folder, or Lucene has no analyser for the language.
    """

    def __init__(self, folder: Path, language: str, bm25: Bm25, ignore_identical_ids: bool = False) -> None:
        _check_language(language)
        # A clause a different term; Lucene's 1,024 are soon reached by a document used as query.
        java_class("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)
        self._java = _open(folder)
        if language != "en":  # the default
            self._java.set_analyzer(_analyzers().getLanguageSpecificAnalyzer(language))
        self._java.set_bm25(bm25.k1, bm25.b)
        self._english = language == "en"
        self._ignores = ignore_identical_ids
        self._json = _json_writer()
        # Feedback reads the documents' vectors; where the index has none, it analyses the stored documents anew.
        self._parser = None if self._java.reader.getTermVectors(0) else _parser_of(self._java)

    def documents(self, doc_ids: Iterable[str]) -> dict[str, dict[str, str]]:
        """doc id → {"title", "text"} of those that are in the index, as far as it stores documents.

        Made for some thousands of documents: each is looked up on disk.
        """
        stored = ((doc_id, self._java.doc_raw(clean(doc_id))) for doc_id in sorted(doc_ids))
        return {doc_id: _title_and_text(raw) for doc_id, raw in stored if raw}

    def search(
        self,
        queries: Queries,
        depth: int,
        feedback: Rm3 | Rocchio | None = None,
        owners: Mapping[str, str] | None = None,
    ) -> Run:
        """The best `depth` documents of every query and their scores, best first.

        A query without a known word has no documents, but is there.

        Scores are rounded to four decimals and ties told apart by a millionth, in the order of doc_id (Anserini's
        ScoreTiesAdjusterReranker), or by as much as single precision needs for that (`_apart`).

        Args:
            owners: key of `queries` → id of the query it stands for, as far as it stands for one; None where the keys
                are query ids. It matters where identical ids are ignored.

        Raises:
            UserError: RM3 is to learn from more documents than Anserini gives it.
        """
        self._set_feedback(feedback)
        # Rocchio learns from the ranking as deep as asked for, so it must be deep enough.
        hits = max(depth, feedback.fb_docs) if feedback else depth
        own = owned(queries, owners, self._ignores)
        run: Run = {}
        for batch in track(list(batches(queries.items(), SEARCH_BATCH)), "Searching"):
            found = self._search([(own.get(key), clean(text)) for key, text in batch], hits, feedback is not None)
            run |= {
                key: _apart(without(scores, own.get(key), depth)) for (key, _), scores in zip(batch, found, strict=True)
            }
        return run

    def _search(self, asked: list[tuple[str | None, str]], hits: int, feedback: bool) -> list[dict[str, float]]:
        """Scores of the best documents for each (id of the document that will be left out, text)."""
        hits += any(own is not None for own, _ in asked)
        alone = {n for n, (own, _) in enumerate(asked) if own is not None and feedback}
        together = {str(n): text for n, (_, text) in enumerate(asked) if n not in alone}
        found = self._java.batch_search(_java_list(together.values()), _java_list(together), hits, THREADS)
        for n in alone:
            found.put(str(n), self._search_without(*asked[n], hits))
        # Reading hits field by field from Python takes ten times as long as the search itself.
        read = json.loads(self._json.writeValueAsString(found))
        return [{hit["docid"]: hit["score"] for hit in read[str(n)]} for n in range(len(asked))]

    def _search_without(self, own: str | None, text: str, hits: int) -> Any:
        """Hits of a search by feedback that does not learn from a document; the document may be among them.

        Anserini's own way (SearchCollection's -removeQuery) drops it at the end alone. Here the first search, whose
        hits feedback reads, excludes it by its id.
        """
        analyzer, occur = self._java.get_analyzer(), java_class("org.apache.lucene.search.BooleanClause$Occur")
        words = java_class("io.anserini.search.query.BagOfWordsQueryGenerator")().buildQuery("contents", analyzer, text)
        it = java_class("org.apache.lucene.search.TermQuery")(java_class("org.apache.lucene.index.Term")("id", own))
        query = java_class("org.apache.lucene.search.BooleanQuery$Builder")()
        query.add(words, occur.MUST)
        query.add(it, occur.MUST_NOT)
        tokens = java_class("io.anserini.analysis.AnalyzerUtils").analyze(analyzer, text)
        return self._java._search(query.build(), tokens, text, hits)

    def _set_feedback(self, feedback: Rm3 | Rocchio | None) -> None:
        # Each of the two leaves traces that the other does not clear.
        self._java.unset_rm3()
        self._java.unset_rocchio()
        match feedback:
            case Rm3(fb_docs=docs, fb_terms=terms, original_query_weight=weight):
                if docs > RM3_DOCS:
                    raise UserError(f"retrieval.rm3.fb_docs is {docs}; Anserini's RM3 takes {RM3_DOCS} at most")
                # The filter keeps [a-z0-9]+ only: good for English, nothing left of Chinese.
                self._java.set_rm3(self._parser, terms, docs, weight, False, self._english)
            case Rocchio(fb_docs=docs, fb_terms=terms, alpha=alpha, beta=beta):
                # No negative feedback, as in pyserini's default.
                self._java.set_rocchio(self._parser, terms, docs, terms, docs, alpha, beta, 0.0, False, False)


def _title_and_text(raw: str) -> dict[str, str]:
    """Of a document as Anserini stored it: JSON of a collection's own keys, or text."""
    record = _as_json(raw)
    if not record:
        return {"title": "", "text": raw.strip()}
    title = str(record.get("title") or "").strip()
    text = next((str(record[key]).strip() for key in _TEXT_KEYS if record.get(key)), "")
    # Some repeat the title as the first line of the contents.
    return {"title": title, "text": text.removeprefix(title).strip() if title else text}


def _as_json(raw: str) -> dict[str, Any]:
    """The object that a text is; empty where it is none."""
    try:
        record = json.loads(raw)
    except json.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}


def _parser_of(searcher: Any) -> str | None:
    """The Anserini collection class that reads an index's stored documents; None: it stores none that are known."""
    record = _as_json(searcher.doc_raw(0) or "")
    return next((parser for key, parser in _PARSERS.items() if key in record), None)


def _apart(scores: dict[str, float]) -> dict[str, float]:
    """Descending scores in six decimals, as run files hold them, each less than the one before in single precision.

    Anserini tells ties apart by a millionth, which a float of 8 or more does not hold. trec_eval would put such ties
    in the reverse order of doc_id, and its first ten of a thousand could be others than those of a search for ten.
    """
    written = {doc_id: round(score, 6) for doc_id, score in scores.items()}
    single = np.array([*written.values()], dtype=np.float32)
    if (single[1:] < single[:-1]).all():
        return written
    last = float("inf")
    for doc_id, score in written.items():
        if np.float32(score) >= np.float32(last):
            score = round(last - max(1e-6, 2 * float(np.spacing(np.float32(last)))), 6)
        written[doc_id] = last = score
    return written


def _anserini_json(documents: Iterable[Mapping[str, str]]) -> Iterator[str]:
    for document in documents:
        contents = f"{document['title']}\n{document['text']}".strip()
        if contents:
            yield json.dumps({"id": document["doc_id"], "contents": contents})


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of a size; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _java_list(items: Iterable[str]) -> Any:
    java_list = java_class("java.util.ArrayList")()
    for item in items:
        java_list.add(item)
    return java_list


def _open(folder: Path) -> Any:
    # Resolved: Java stays in the folder in which it was started, whatever Python's is by now.
    from jnius import JavaException

    try:
        return java_class("io.anserini.search.SimpleSearcher")(str(folder.resolve()))
    except JavaException as error:
        if any(folder.glob("segments_*")):
            raise UserError(
                f"{folder}: a damaged Lucene index ({one_line(error)[:300]}); remove the folder, and it is made or fetched "
                "again by `dvc repro`"
            ) from None
        raise UserError(f"{folder}: no Lucene index; `dvc repro index` builds it") from None


def _json_writer() -> Any:
    """Writes hits as JSON, their documents left out."""
    writer = java_class("com.fasterxml.jackson.databind.ObjectMapper")()
    stored_document = java_class("java.lang.Class").forName("org.apache.lucene.document.Document")
    writer.configOverride(stored_document).setIsIgnoredType(java_class("java.lang.Boolean")(True))
    return writer


def _analyzers() -> Any:
    return java_class("io.anserini.analysis.AnalyzerMap")


def _check_language(language: str) -> None:
    # Anserini would take English for a language it does not know.
    known = {"en", *_analyzers().analyzerMap.keySet().toArray()}
    if language not in known:
        raise UserError(f"collection.language is {language!r}; Lucene has analysers for {', '.join(sorted(known))}")
