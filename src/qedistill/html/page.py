"""The report: one HTML file without anything to load, made of what the stages wrote."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from qedistill import measures, report
from qedistill.evaluation import QUERY, STUDENTS, TEACHERS
from qedistill.evidence import TestSet, read_expansions, read_test_set, run_folders
from qedistill.html import charts, provenance
from qedistill.layout import INDEX, METRICS, PAIRS, PLOTS
from qedistill.params import Params
from qedistill.retrieval import find_documents, open_searcher
from qedistill.retrieval.indexes import PREBUILT
from qedistill.terms import Term, leave_out
from qedistill.text import atomic, flatten, read_json, read_jsonl

EXCERPT = 160  # characters of a document's text
RELEVANT = 12  # relevant documents of a query whose ranks are told, those of the highest grades
SMALLEST = 0.0005  # of a word's difference: what is less is not told

TOKENS = (("completion", ""), ("prompt", "prompt_"))  # in metrics/expand@<system>.json
# Figures of metrics/cost@<system>.json, and the words counted here: name, factor and decimals in the report.
COSTS = {
    "words": ("words a query", 1, 0),
    "completion_tokens_per_query": ("completion tokens a query", 1, 0),
    "prompt_tokens_per_query": ("prompt tokens a query", 1, 0),
    "latency_p50_seconds": ("ms a query alone, median", 1000, 0),
    "latency_p95_seconds": ("95th percentile", 1000, 0),
    "queries_per_second": ("queries a second, in batches", 1, 1),
    "peak_memory_mb": ("peak memory, MB", 1, 0),
    "disk_mb": ("on disk, MB", 1, 0),
    "price_per_1000_queries": ("price of 1,000 queries", 1, 4),
}

Table = tuple[list[str], list[list[str]]]  # header and rows


def build(params: Params, path: Path) -> dict[str, int]:
    """Write the report, atomically; returns its size and how many queries open and how many words were left out."""
    tests = {name: read_test_set(name, split) for name, split in run_folders(params.collection.tests).items()}
    results = {
        name: found for name, found in report.read_results(METRICS, list(params.collection.tests)).items() if found
    }
    details, searched = _details(params, tests)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qedistill.html", "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    # The blob stands between script tags: `tojson` writes <, > and & as escapes, whatever a document says.
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    page = environment.get_template("report.html").render(
        params=params,
        headline={name: headline(found, params) for name, found in results.items()},
        outcomes={name: outcomes(test, params) for name, test in tests.items()},
        names=report.NAMES,
        costs=cost_table(),
        systems_charts=[_svg(charts.systems(name, found)) for name, found in results.items()],
        cost_charts=cost_charts(results),
        difference_charts=difference_charts(tests, params),
        pairs_charts=pairs_charts(),
        pairs=_read(METRICS / "pairs.json"),
        training_charts=training_charts(),
        collection=_read(METRICS / "collection.json"),
        prebuilt=_read(INDEX / PREBUILT),
        told=told(),
        settings=[(key, _show(value)) for key, value in flatten(params.model_dump(exclude={"tracking"})).items()],
        provenance=provenance.provenance(),
        packages=provenance.packages(),
        hashes=provenance.hashes(),
        searched=searched,
        data=details,
    )
    with atomic(path) as target:
        # A lone surrogate, which JSON can carry, has no UTF-8.
        target.write_bytes(page.encode("utf-8", "replace"))
    return {
        "bytes": path.stat().st_size,
        "queries": sum(len(test.queries) for test in tests.values()),
        "left_out": searched,
    }


def told() -> list[tuple[str, str, int]]:
    """Stage, what it left out, merged, cut or overruled, and how often; of the stages whose figures the report reads."""
    stages = ("collection", "pairs", *(f"expand@{model}" for model in STUDENTS), "retrieve")
    return [
        (stage, reason.replace("_", " "), count)
        for stage in stages
        for reason, count in _read(METRICS / f"{stage}.json").get("told", {}).items()
    ]


def headline(results: dict[str, dict[str, Any]], params: Params) -> list[dict[str, str]]:
    """A row a system: every figure as text. Marks: † differs from the original query, ‡ from the teacher."""
    rows = []
    for system, figures in results.items():
        marks = "".join(
            mark
            for mark, key in (("†", "vs_query"), ("‡", "vs_teacher"))
            if key in figures and figures[key]["p"] < params.evaluation.alpha
        )
        rows.append(
            {
                "system": report.NAMES[system],
                "ndcg": f"{figures['ndcg@10']:.3f}",
                "marks": marks,
                "interval": report.interval(figures, "ndcg@10_", ".3f").strip() or "–",
                "vs_query": _difference(figures.get("vs_query")),
                "vs_teacher": _difference(figures.get("vs_teacher")),
                "retention": report.share(figures, "retention").replace("-", "−"),
                "gain": report.share(figures, "gain_kept").replace("-", "−"),
                "ap": f"{figures['ap']:.3f}",
                "mrr": f"{figures['mrr']:.3f}",
                "recall": f"{figures['recall@1000']:.3f}",
                "judged": f"{figures['judged@10']:.0%}",
            }
        )
    return rows


def outcomes(test: TestSet, params: Params) -> list[list[str]]:
    """Rows: system, better, same and worse than the original query, then than the teacher, as counts of queries."""
    teacher = TEACHERS[params.evaluation.teacher]
    rows = []
    for system in test.ndcg:
        if system == QUERY:
            continue
        row = [report.NAMES[system]]
        for other in (QUERY, teacher):
            gains = _gains(test, system, other)
            better = sum(gain > measures.TOLERANCE for gain in gains)
            worse = sum(gain < -measures.TOLERANCE for gain in gains)
            known = other in test.ndcg and other != system
            row += [str(n) if known else "–" for n in (better, len(gains) - better - worse, worse)]
        rows.append(row)
    return rows


def words_per_query() -> dict[str, float]:
    """Mean number of words, over all samples, that each system writes for a query."""
    return {
        system: sum(len(text.split()) for samples in found.values() for text in samples) / len(found)
        for system, found in read_expansions().items()
        if found
    }


def costs() -> dict[str, dict[str, float]]:
    """system → what an expansion costs, in the order of COSTS; what was not measured is left out."""
    found: dict[str, dict[str, float]] = {}
    styles = {system: style for style, system in TEACHERS.items()}
    for system, words in words_per_query().items():
        expanded = _read(METRICS / f"expand@{system}.json")
        measured = _read(METRICS / f"cost@{styles.get(system, system)}.json") | {
            "words": words,
            **{f"{kind}_tokens_per_query": expanded.get(f"{key}tokens_per_query") for kind, key in TOKENS if expanded},
        }
        found[system] = {key: measured[key] for key in COSTS if measured.get(key) is not None}
    return found


def cost_table() -> Table:
    """What an expansion costs, a row a system; a column that no system has is left out."""
    found = costs()
    keys = [key for key in COSTS if any(key in figures for figures in found.values())]
    rows = []
    for system, figures in found.items():
        cells = [(figures.get(key), COSTS[key]) for key in keys]
        rows.append(
            [report.NAMES[system], *("–" if value is None else f"{value * f:,.{d}f}" for value, (_, f, d) in cells)]
        )
    return ["system", *(COSTS[key][0] for key in keys)], rows


def cost_charts(results: dict[str, dict[str, Any]]) -> list[Markup]:
    """Quality over tokens where all systems have them, else over words; and over latency where it was measured."""
    found = costs()
    tokens = "completion_tokens_per_query"
    size = tokens if found and all(tokens in figures for figures in found.values()) else "words"
    drawn = []
    for key in (size, "latency_p50_seconds"):
        label, factor, _ = COSTS[key]
        values = {system: figures[key] * factor for system, figures in found.items() if figures.get(key)}
        for name, of_test in results.items():
            if values.keys() & of_test.keys():
                drawn.append(_svg(charts.cost(name, f"{label} (log scale)", of_test, values)))
    return drawn


def difference_charts(tests: dict[str, TestSet], params: Params) -> list[Markup]:
    """For the best trained student there is: the queries it wins and loses."""
    teacher = TEACHERS[params.evaluation.teacher]
    drawn = []
    for name, test in tests.items():
        student = _student(test)
        if student is None:
            continue
        series = {
            f"less {report.NAMES[other]}": _gains(test, student, other)
            for other in (QUERY, teacher)
            if other in test.ndcg
        }
        drawn.append(_svg(charts.differences(f"{name}: {report.NAMES[student]}", series)))
    return drawn


def pairs_charts() -> list[Markup]:
    """How far chosen and rejected are apart, how long they are, and whose they are."""
    path = PAIRS / "train.jsonl"
    pairs = list(read_jsonl(path)) if path.exists() else []
    if not pairs:
        return []
    sides = ("chosen", "rejected")
    lengths = {side: [float(len(pair[side][-1]["content"].split())) for pair in pairs] for side in sides}
    sources = {side: Counter(str(pair[f"{side}_from"]).split("/")[0] for pair in pairs) for side in sides}
    gaps = {"pairs": [pair["chosen_score"] - pair["rejected_score"] for pair in pairs]}
    return [
        _svg(charts.histogram("Score differences", "nDCG@10 of chosen less rejected", gaps, "pairs")),
        _svg(charts.histogram("Lengths", "words", lengths, "pairs")),
        _svg(charts.counts("Sources", "pairs", sources)),
    ]


def training_charts() -> list[Markup]:
    """Curves of SFT and DPO, as far as they were trained."""
    wanted = [
        ("SFT", "loss", {"training": ("sft.csv", "loss"), "validation": ("sft_validation.csv", "eval_loss")}),
        ("DPO", "loss", {"training": ("dpo.csv", "loss")}),
        ("DPO", "reward margin", {"chosen less rejected": ("dpo.csv", "rewards/margins")}),
        ("DPO", "share of pairs told right", {"training": ("dpo.csv", "rewards/accuracies")}),
    ]
    drawn = []
    for title, label, columns in wanted:
        series = {name: _curve(PLOTS / file, column) for name, (file, column) in columns.items()}
        series = {name: points for name, points in series.items() if points}
        if series:
            drawn.append(_svg(charts.curve(f"{title}: {label}", label, series)))
    return drawn


def _details(params: Params, tests: dict[str, TestSet]) -> tuple[dict[str, Any], int]:
    """What the page's script shows of single queries, and how many words were left out to tell which matter."""
    expansions = read_expansions()
    opened = {name: _worst_first(test, params)[: params.report.queries] for name, test in tests.items()}
    terms, searched = _terms(params, tests, opened, expansions)
    shown = {
        name: {
            doc_id
            for i in opened[name]
            for doc_ids in [*(test.top(system, i) for system in test.ranks), [doc for doc, _ in _relevant(test, i)]]
            for doc_id in doc_ids
        }
        for name, test in tests.items()
    }
    needed = set().union(*shown.values())
    documents = {
        doc_id: document
        for name, doc_ids in shown.items()
        for doc_id, document in find_documents(params, name.partition(".")[0], doc_ids).items()
    }
    number = {doc_id: position for position, doc_id in enumerate(sorted(needed))}
    return {
        "names": report.NAMES,
        "students": [system for system in STUDENTS if any(system in test.ndcg for test in tests.values())],
        "teacher": TEACHERS[params.evaluation.teacher],
        "level": params.evaluation.relevance_level,
        "docs": [_document(doc_id, documents.get(doc_id)) for doc_id in number],
        "tests": [
            {
                "name": name,
                "systems": list(test.ndcg),
                "queries": [
                    _query(test, i, i in opened[name], number, expansions, terms.get(name, {})) for i in test.queries
                ],
            }
            for name, test in tests.items()
        ],
    }, searched


def _query(
    test: TestSet,
    query_id: str,
    opened: bool,
    number: dict[str, int],
    expansions: dict[str, dict[str, list[str]]],
    terms: dict[str, dict[str, list[Term]]],
) -> dict[str, Any]:
    grades = test.qrels[query_id]
    entry: dict[str, Any] = {
        "id": query_id,
        "text": test.queries[query_id],
        "ndcg": {system: round(scores[query_id], 4) for system, scores in test.ndcg.items()},
    }
    if not opened:
        return entry
    entry["top"] = {s: [[number[d], grades.get(d)] for d in test.top(s, query_id)] for s in test.ranks}
    entry["relevant"] = [
        [number[doc_id], grade, {s: ranks.get(query_id, {}).get(doc_id) for s, ranks in test.ranks.items()}]
        for doc_id, grade in _relevant(test, query_id)
    ]
    entry["expansions"] = {
        s: found[query_id] for s, found in expansions.items() if s in test.ranks and query_id in found
    }
    entry["terms"] = {
        s: [
            [t.word, t.count, round(t.difference, 4), [[number[d], *rest] for d, *rest in t.moves if d in number]]
            for t in found[query_id]
            if abs(t.difference) >= SMALLEST or t.moves
        ]
        for s, found in terms.items()
        if query_id in found
    }
    return entry


def _terms(
    params: Params,
    tests: dict[str, TestSet],
    opened: dict[str, list[str]],
    expansions: dict[str, dict[str, list[str]]],
) -> tuple[dict[str, dict[str, dict[str, list[Term]]]], int]:
    """test set → system → query id → its words, for the trained students and the teacher, and the number of searches.

    Only for test sets that were searched by BM25: those named as their split.
    """
    weights = _read(METRICS / "retrieve.json").get("query_weight", {})
    wanted = [system for system in ("dpo", "sft", TEACHERS[params.evaluation.teacher]) if system in expansions]
    lexical = [name for name in tests if name in params.collection.tests]
    places = [(name, system) for name in lexical for system in wanted if system in tests[name].ranks]
    if not (params.report.searches and places):
        return {}, 0
    found: dict[str, dict[str, dict[str, list[Term]]]] = {}
    searched = 0
    for name, system in places:
        test = tests[name]
        queries = {i: test.queries[i] for i in opened[name] if i in expansions[system]}
        share = params.report.searches // len(places)
        searcher = open_searcher(params, name)
        terms = leave_out(searcher, queries, test.qrels, expansions[system], weights[system], params.retrieval, share)
        searched += sum(map(len, terms.values()))
        found.setdefault(name, {})[system] = terms
    return found, searched


def _worst_first(test: TestSet, params: Params) -> list[str]:
    """The queries, those first where the student falls most below the original query or the teacher."""
    student, teacher = _student(test), TEACHERS[params.evaluation.teacher]
    if student is None:
        return list(test.queries)

    def gain(query_id: str) -> float:
        others = [test.ndcg[other][query_id] for other in (QUERY, teacher) if other in test.ndcg]
        return test.ndcg[student][query_id] - max(others, default=0.0)

    return sorted(test.queries, key=gain)


def _student(test: TestSet) -> str | None:
    """The student trained furthest."""
    return next((system for system in reversed(STUDENTS) if system in test.ndcg), None)


def _relevant(test: TestSet, query_id: str) -> list[tuple[str, int]]:
    """Documents of a grade above 0, highest grade first, of equal grades those first that any system ranks high."""
    best = {
        doc_id: min(ranks.get(query_id, {}).get(doc_id, 10**9) for ranks in test.ranks.values())
        for doc_id, grade in test.qrels[query_id].items()
        if grade > 0
    }
    ordered = sorted(best, key=lambda doc_id: (-test.qrels[query_id][doc_id], best[doc_id], doc_id))
    return [(doc_id, test.qrels[query_id][doc_id]) for doc_id in ordered[:RELEVANT]]


def _gains(test: TestSet, system: str, other: str) -> list[float]:
    if other not in test.ndcg:
        return []
    return [test.ndcg[system][i] - test.ndcg[other][i] for i in test.queries]


def _document(doc_id: str, document: dict[str, str] | None) -> list[str]:
    """Id, title, excerpt."""
    if document is None:
        return [doc_id, "", "(not in the collection)"]
    text = " ".join(document["text"].split())
    return [doc_id, document["title"], text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"]


def _curve(path: Path, column: str) -> list[tuple[float, float]]:
    if not path.exists():
        return []
    frame = pd.read_csv(path)
    if not {"step", column} <= set(frame.columns):
        return []
    frame = frame[["step", column]].dropna()
    return list(zip(frame["step"].tolist(), frame[column].tolist(), strict=True))


def _read(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.exists() else {}


def _svg(figure: Any) -> Markup:
    return Markup(charts.inline(figure))


def _difference(figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return "–"
    return f"{figures['difference']:+.3f} ({report.p_value(figures['p'])})".replace("-", "−")


def _show(value: Any) -> str:
    return "null" if value is None else str(value)
