"""How much there is to do: queries, teacher calls, searches, rows and tokens, as far as params and metadata tell."""

import math
from dataclasses import dataclass
from pathlib import Path

from qedistill import prompts
from qedistill.collection import load_dataset, read_splits
from qedistill.errors import UserError
from qedistill.generation.api import cost, estimate
from qedistill.generation.ledger import Ledger
from qedistill.generation.request import Request, Usage, tokens_in, tokens_of
from qedistill.generation.teacher import read_requests
from qedistill.layout import METRICS, queries
from qedistill.params import Collection, Params, Training
from qedistill.prompts import STYLES, Exemplar
from qedistill.text import Queries, read_json, read_qrels, read_queries
from qedistill.training.data import student_prompt

QUERY_WORDS = 8  # of a query not read yet
TURNS = 15  # tokens that a chat template puts around a row
_SHARED = ("ids", "random", "diverse")  # exemplars that every query is shown


def split_queries(params: Params, made: bool) -> tuple[dict[str, int], bool]:
    """Split → number of queries, and whether it is exact or an upper limit (ir_datasets' metadata, judged or not).

    Args:
        made: the stage collection has run with these params.

    Raises:
        UserError: a folder, file, split or id is not there, or ir_datasets does not tell how many queries an id has.
    """
    wanted = params.collection
    if made:
        names = ["train", "validation", *wanted.tests]
        return {name: len(read_queries(queries(name))) for name in names}, True
    if wanted.source == "beir":
        splits = read_splits(wanted, set(params.teacher.exemplars.ids), params.seed)
        return {name: len(split.queries) for name, split in splits.items()}, True
    counts = {name: _count(wanted, dataset) for name, dataset in wanted.tests.items()}
    learning = _count(wanted, wanted.train) if wanted.train else 0
    if wanted.train_queries:
        learning = min(learning, wanted.train_queries)
    validation = round(wanted.validation * learning)
    exact = all(dataset.startswith("pyapi/") for dataset in wanted.tests.values())
    return {"train": learning - validation, "validation": validation, **counts}, exact


def known_queries(params: Params, made: bool) -> dict[str, Queries]:
    """Split → queries to learn from, where they can be read already: the stage collection has run, or it is a folder."""
    if made:
        return {split: read_queries(queries(split)) for split in ("train", "validation")}
    if params.collection.source != "beir":
        return {}
    splits = read_splits(params.collection, set(params.teacher.exemplars.ids), params.seed)
    return {split: splits[split].queries for split in ("train", "validation") if split in splits}


def _count(params: Collection, dataset: str) -> int:
    if dataset.startswith("pyapi/"):
        folder = Path(params.path)
        judged = {i for i, grades in read_qrels(folder / "qrels.txt").items() if max(grades.values(), default=0) > 0}
        splits = dict(line.split() for line in (folder / "splits.tsv").read_text(encoding="utf-8").splitlines())
        return sum(splits.get(i) == dataset.removeprefix("pyapi/") for i in judged)
    count = load_dataset(params, dataset).metadata().get("queries", {}).get("count")
    if count is None:
        raise UserError(f"collection: ir_datasets does not tell how many queries {dataset} has")
    return int(count)


def count_documents(params: Params, made: bool) -> int | None:
    """Documents of a collection that is indexed here; None: not known before the stage collection has run."""
    wanted = params.collection
    if params.index.prebuilt is not None:
        return None
    if made:
        return int(read_json(METRICS / "collection.json")["documents"])
    if wanted.source == "beir":
        with (Path(wanted.path) / "corpus.jsonl").open(encoding="utf-8") as corpus:
            return sum(1 for _ in corpus)
    count = None if wanted.source == "pyapi" else load_dataset(wanted).metadata().get("docs", {}).get("count")
    return None if count is None else int(count)


@dataclass(frozen=True)
class Calls:
    """What the teacher is asked in one style.

    Attributes:
        asked: answers wanted; each is a call, if its first answer is of use.
        known: those in the ledger.
        usage: tokens of the rest: prompts estimated, completions at the most.
        cost: of the rest, at the most; None without prices.
        longest: tokens of the longest prompt with its completion, as estimated.
    """

    asked: int
    known: int
    usage: Usage
    cost: float | None
    longest: int


def count_requests(learning: int, testing: int, style: str, params: Params) -> int:
    """How many requests `teacher_requests` makes of so many queries; exemplars that all share are not asked."""
    exemplars = params.teacher.exemplars
    own = exemplars.k if style == "few_shot" and exemplars.choose in _SHARED else 0
    return max(learning - own, 0) * params.teacher.samples + testing


def teacher_calls(params: Params, counts: dict[str, int], made: bool, ledger: Path) -> dict[str, Calls]:
    """Style → calls; exact but for the tokens where the stages collection and exemplars have run (`made`).

    Before that a query counts as eight words, and an exemplar's passage as long as it may be.
    """
    if made:
        requests = read_requests(params)
        keys = [request.key for some in requests.values() for request in some]
        known = _answered(keys, ledger) if params.teacher.generator == "api" else set[str]()
        return {style: _calls(some, known, params) for style, some in requests.items()}
    learning = counts["train"] + counts["validation"]
    testing = sum(counts.values()) - learning
    found = {}
    for style in STYLES:
        number = count_requests(learning, testing, style, params)
        one = estimate(_typical(style, params))
        usage = Usage(one.prompt_tokens * number, one.completion_tokens * number)
        found[style] = Calls(number, 0, usage, _price(usage, params), one.prompt_tokens + one.completion_tokens)
    return found


def _answered(keys: list[str], ledger: Path) -> set[str]:
    if not ledger.exists():
        return set()
    with Ledger(ledger) as opened:
        return set(opened.answers(keys))


def _calls(requests: list[Request], known: set[str], params: Params) -> Calls:
    distinct = {request.key: request for request in requests}
    each = [estimate(request) for key, request in distinct.items() if key not in known]
    usage = sum(each, Usage())
    longest = max((one.prompt_tokens + one.completion_tokens for one in each), default=0)
    return Calls(len(distinct), len(distinct.keys() & known), usage, _price(usage, params), longest)


def _price(usage: Usage, params: Params) -> float | None:
    if params.teacher.generator == "local":
        return 0.0
    prices = params.teacher.api.prices
    return cost(usage, prices) if prices else None


def _words(number: int, params: Params) -> str:
    """A text of so many words: of six letters with the space, or of two Han characters."""
    return "字" * 2 * number if params.collection.language == "zh" else "words " * number


def _typical(style: str, params: Params) -> Request:
    teacher = params.teacher
    exemplar = Exemplar("", _words(QUERY_WORDS, params), "", _words(teacher.exemplars.max_words, params))
    shown = [exemplar] * teacher.exemplars.k if style == "few_shot" else []
    messages = prompts.few_shot(_words(QUERY_WORDS, params), shown, params.collection, teacher.max_words)
    limit = teacher.exemplars.max_tokens
    while shown and limit and tokens_of(messages) > limit:
        shown.pop()
        messages = prompts.few_shot(_words(QUERY_WORDS, params), shown, params.collection, teacher.max_words)
    return Request("", "", style, 0, str(teacher.model), messages, {"max_tokens": teacher.max_new_tokens})


@dataclass(frozen=True)
class Work:
    """Of search, training and generation; tokens with their prompts, pairs at the most."""

    feedback_searches: int
    retrieve_searches: int
    prompt_tokens: int
    sft_rows: int
    sft_steps: int
    sft_tokens: float
    pairs: int
    dpo_steps: int
    dpo_tokens: float
    sample_tokens: float
    expand_tokens: float


def measure_work(params: Params, counts: dict[str, int]) -> Work:
    """The work of the stages from sft to retrieve, at the most."""
    train, validation = counts["train"], counts["validation"]
    paired = sum(counts[split] for split in params.pair_splits)
    evaluated = sum(counts.values()) - train
    query = student_prompt(_words(QUERY_WORDS, params), params.student, params.collection)
    prompt = sum(tokens_in(message["content"]) for message in query) + TURNS
    words = min(params.student.max_words or params.teacher.max_words, params.teacher.max_words)
    answer = tokens_in(_words(words, params))

    of_style = 2 * min(params.sft.samples, params.teacher.samples)
    rows = train * of_style
    sft_tokens = rows * params.sft.epochs + validation * of_style * params.sft.evaluations / 2  # forward alone
    # A candidate each of the teacher's answers, and each of the student's own samples.
    teachers = 2 * params.teacher.samples
    candidates = {"teacher": teachers, "student": params.feedback.samples, "both": teachers + params.feedback.samples}
    most = candidates[params.pairs.candidates]
    of_query = most * (most - 1) // 2 if params.pairs.strategy == "all" else most - 1
    pairs = train * min(params.pairs.per_query, of_query)
    dpo_passes = pairs * (params.dpo.epochs + 1 / 2)  # the reference's pass is forward alone

    searched = params.generation.samples if params.retrieval.combine == "fuse" else 1
    weights = len(params.retrieval.query_weights) if params.retrieval.query_weight == "auto" else 0
    return Work(
        feedback_searches=paired * (teachers + params.feedback.samples + 1),
        retrieve_searches=evaluated * (3 + 3 * searched + 2) + validation * weights * (3 * searched + 2),
        prompt_tokens=prompt,
        sft_rows=rows,
        sft_steps=_steps(rows, params.sft),
        sft_tokens=sft_tokens * min(prompt + answer, params.sft.max_length),
        pairs=pairs,
        dpo_steps=_steps(pairs, params.dpo),
        dpo_tokens=dpo_passes * 2 * min(prompt + answer, params.dpo.max_length),
        sample_tokens=paired * params.feedback.samples * (prompt / max(params.feedback.samples, 1) + _new(params)),
        expand_tokens=3 * evaluated * params.generation.samples * (prompt / params.generation.samples + _new(params)),
    )


def _new(params: Params) -> int:
    return params.generation.max_new_tokens


def _steps(rows: int, params: Training) -> int:
    batches = math.ceil(rows / params.batch_size)
    return math.ceil(math.ceil(batches / params.gradient_accumulation) * params.epochs)
