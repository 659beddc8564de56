"""Baselines against publication: pyserini's reproductions ("2CR") hold BM25's and feedback's nDCG@10 on the benchmarks.

The tables ship with pyserini: a command and its scores for each condition. A score counts as ours to reproduce where the
command searches the same index with the same queries, settings and analyser, and does nothing else.
"""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from qedistill.evaluation import QUERY, RM3, ROCCHIO
from qedistill.measures import NDCG
from qedistill.params import Bm25, Params, Rm3, Rocchio

TOLERANCE = 0.0005  # of nDCG@10; published figures have four decimals
TABLES = ("msmarco-v1-passage", "msmarco-v2-passage", "miracl")
_COMMAND = ["python", "-m", "pyserini.search.lucene"]
# What leaves the ranking as it is; any other option makes a condition another system's (an encoder, say).
_NEUTRAL = {"--threads", "--batch-size", "--topics", "--output", "--output-format", "--hits"}
_MSMARCO_BM25 = Bm25(k1=0.82, b=0.68)  # pyserini.search.lucene's, where a command gives none
_BM25 = Bm25(k1=0.9, b=0.4)
# set_rm3's and set_rocchio's defaults, which every command leaves
_RM3 = Rm3(fb_docs=10, fb_terms=10, original_query_weight=0.5)
_ROCCHIO = Rocchio(fb_docs=10, fb_terms=10, alpha=1.0, beta=0.75)


def published(params: Params, test: str) -> dict[str, float]:
    """System → published nDCG@10 on a test set, for those of `query`, `rm3` and `rocchio` whose settings are the same."""
    index, topics = params.index.of(test), _topics(params.collection.tests[test])
    if index is None or topics is None:
        return {}
    ours = {RM3: params.retrieval.rm3 == _RM3, ROCCHIO: params.retrieval.rocchio == _ROCCHIO, QUERY: True}
    settings = index, params.collection.language, params.retrieval.bm25, params.retrieval.ignore_identical_ids, topics
    return {system: score for system, condition, score in _conditions() if condition == settings and ours[system]}


def compare(figures: dict[str, dict[str, Any]], known: dict[str, float]) -> list[str]:
    """Put `published` and `published_difference` (ours less theirs) into the figures of the systems that have one.

    Returns:
        A sentence for each system that differs by more than the tolerance.
    """
    apart = []
    for system, score in known.items():
        if system in figures:
            difference = figures[system][NDCG] - score
            figures[system] |= {"published": score, "published_difference": difference}
            if abs(difference) > TOLERANCE:
                apart.append(
                    f"{system}: nDCG@10 is {figures[system][NDCG]:.4f}, published {score:.4f} ({difference:+.4f})"
                )
    return apart


def _topics(dataset: str) -> str | None:
    """pyserini's name for the judgments of an ir_datasets id, where both hold the same."""
    if match := re.fullmatch(r"msmarco-passage(?:-v2)?/trec-dl-20(19|20|21)(?:/judged)?", dataset):
        return f"dl{match[1]}-passage"
    if match := re.fullmatch(r"miracl/([a-z]{2})/(train|dev)", dataset):
        return f"miracl-v1.0-{match[1]}-{match[2]}"
    return None


Condition = tuple[str, str, Bm25, bool, str]  # index, language, BM25, ignore_identical_ids, judgments


@cache
def _conditions() -> list[tuple[str, Condition, float]]:
    """System, what it is searched with, and its nDCG@10, of every comparable condition in the tables."""
    return [found for table in TABLES for found in _read_table(table)]


def _read_table(name: str) -> Iterator[tuple[str, Condition, float]]:
    text = (files("pyserini") / "2cr" / f"{name}.yaml").read_text(encoding="utf-8")
    for condition in yaml.safe_load(text)["conditions"]:
        options = _options(condition.get("command", ""))
        if options is None:
            continue
        system = RM3 if "--rm3" in options else ROCCHIO if "--rocchio" in options else QUERY
        index, language = options["--index"], options.get("--language", "en")
        bm25 = _BM25 if not index.startswith("msmarco-v1-passage") else _MSMARCO_BM25
        if "--k1" in options:
            bm25 = Bm25(k1=float(options["--k1"]), b=float(options["--b"]))
        for topics in condition.get("topics") or condition.get("splits") or []:
            judgments = topics.get("eval_key") or f"{condition['eval_key']}-{topics['split']}"
            if (score := topics["scores"][0].get("nDCG@10")) is not None:
                yield system, (index, language, bm25, "--remove-query" in options, judgments), float(score)


def _options(command: str) -> dict[str, str] | None:
    """The options of a BM25 search's command that matter, flags as empty texts; None for any other command."""
    words = shlex.split(command)
    if words[:3] != _COMMAND:
        return None
    options: dict[str, str] = {}
    for word in words[3:]:
        if word.startswith("--"):
            options[word] = ""
        elif options:
            options[list(options)[-1]] = word
    known = _NEUTRAL | {"--index", "--bm25", "--k1", "--b", "--rm3", "--rocchio", "--language", "--remove-query"}
    if "--bm25" not in options or options.keys() - known or {"--rm3", "--rocchio"} <= options.keys():
        return None
    return options
