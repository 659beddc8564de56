"""Words left out one at a time, against a ranking worked out by hand."""

import math
from pathlib import Path

import pytest

from qedistill.params import Bm25, load_params
from qedistill.retrieval import Searcher, build_index
from qedistill.terms import leave_out, without, words

ROOT = Path(__file__).parents[1]
RETRIEVAL = load_params(ROOT / "profiles/pyapi.yaml").retrieval
DOCUMENTS = {"kite": "kestrel kite", "falcon": "kestrel falcon", "wader": "sandpiper wader mud"}
FILLERS = {f"filler-{n}": f"number{n} painting" for n in range(40)}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("birds") / "index"
    records = [{"doc_id": i, "title": "", "text": text} for i, text in (DOCUMENTS | FILLERS).items()]
    build_index(records, folder, "en", threads=1)
    return Searcher(folder, "en", Bm25(k1=0.9, b=0.4))


def test_words() -> None:
    assert words(["Use os.path.relpath, use it.", "USE"]) == {"use": 3, "os.path.relpath": 1, "it": 1}
    assert without(["os.path.relpath or path", "a Path."], "path") == ["os.path.relpath or  ", "a  ."]
    assert words(["雷电 云层，放电"]) == {"雷电": 1, "云层": 1, "放电": 1}


def test_by_hand(searcher: Searcher) -> None:
    # Both samples of the expansion together find `falcon` (two words), then `kite` (one); `wader` is irrelevant.
    queries = {"q": "kestrel", "none": "xyzzy"}
    qrels = {"q": {"falcon": 1, "kite": 2, "wader": 0}, "none": {"kite": 1}}
    expansions = {"q": ["the falcon falcon", "Falcon wader"], "none": ["the xyzzy"]}
    terms = leave_out(searcher, queries, qrels, expansions, 1, RETRIEVAL, searches=100)
    second = 1 / math.log2(3)
    ideal = 2 + second
    # wader is longer, but stands second with a word in no other document, before `kite` with a word of two.
    with_all = (1 + 2 * 0.5) / ideal  # falcon, wader, kite
    assert list(searcher.search({"q": "kestrel falcon falcon Falcon wader"}, 10)["q"]) == ["falcon", "wader", "kite"]
    by_word = {term.word: term for term in terms["q"]}
    assert by_word.keys() == {"the", "falcon", "wader"} and by_word["falcon"].count == 3
    assert by_word["wader"].difference == pytest.approx(with_all - (1 + 2 * second) / ideal)
    assert by_word["wader"].moves == [("kite", 2, 3, 2)]
    assert (by_word["the"].difference, by_word["the"].moves) == (0.0, [])
    assert [(t.word, t.difference, t.moves) for t in terms["none"]] == [("the", 0.0, []), ("xyzzy", 0.0, [])]


def test_the_query_stays_whole(searcher: Searcher) -> None:
    terms = leave_out(searcher, {"q": "kite"}, {"q": {"kite": 1}}, {"q": ["kite"]}, 1, RETRIEVAL, searches=100)
    assert [(t.word, t.difference, t.moves) for t in terms["q"]] == [("kite", 0.0, [])]


def test_fused_samples(searcher: Searcher) -> None:
    fuse = RETRIEVAL.model_copy(update={"combine": "fuse"})
    expansions = {"q": ["kite", "wader sandpiper mud"]}
    terms = leave_out(searcher, {"q": "kestrel"}, {"q": {"kite": 1}}, expansions, 1, fuse, 100)["q"]
    # kite is first in one sample and third in the other, falcon second in both; alike without the word, by id.
    assert (terms[0].word, terms[0].moves) == ("kite", [("kite", 1, 1, 2)])
    assert terms[0].difference == pytest.approx(1 - 1 / math.log2(3))


def test_the_budget_cuts_whole_queries(searcher: Searcher) -> None:
    queries = {f"q{n}": "painting" for n in range(3)}
    qrels = {i: {"kite": 1} for i in queries}
    expansions = {i: ["falcon wader"] for i in queries}
    assert list(leave_out(searcher, queries, qrels, expansions, 1, RETRIEVAL, searches=5)) == ["q0", "q1"]
