"""params.yaml, typed and validated before any work."""

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from qedistill.errors import UserError
from qedistill.text import read_yaml
from qedistill.words import check_clean

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Temperature = Annotated[float, Field(ge=0, le=5)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Address = Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]  # without a user, a password or a key
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]  # of the environment
Text = Annotated[str, AfterValidator(check_clean)]  # a part of a prompt
# Names of test sets and systems become parts of file names and metric keys.
# An id or a file's name that is all digits is a number to YAML.
Id = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Group(BaseModel):
    """A group of params: unknown keys, silent conversions ("0.1" for 0.1) and numbers without end are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Collection(Group):
    source: str
    path: str
    train: Id | None
    train_queries: Positive | None
    tests: dict[Name, Id] = Field(min_length=1)
    validation: Share
    language: str = Field(pattern=r"^[a-z]{2}$")
    document: Text

    @model_validator(mode="after")
    def _no_reserved_test(self) -> "Collection":
        # The last two are keys of metrics/collection.json beside those of the splits.
        if reserved := {"train", "validation", "documents", "told"} & set(self.tests):
            raise ValueError(f"tests must not be named {' or '.join(sorted(reserved))}")
        return self


class Index(Group):
    threads: Positive
    prebuilt: str | None
    others: dict[Name, str]

    def of(self, split: str) -> str | None:
        """The prebuilt index that a split is searched in; None: the one built from the collection."""
        return self.others.get(split, self.prebuilt)


class Bm25(Group):
    k1: float = Field(ge=0)
    b: float = Field(ge=0, le=1)


class Rm3(Group):
    fb_docs: Positive
    fb_terms: Positive
    original_query_weight: float = Field(ge=0, le=1)


class Rocchio(Group):
    fb_docs: Positive
    fb_terms: Positive
    alpha: float = Field(ge=0)
    beta: float = Field(ge=0)


class Retrieval(Group):
    depth: Positive
    bm25: Bm25
    rm3: Rm3
    rocchio: Rocchio
    query_weight: Positive | Literal["auto"]
    query_weights: list[Positive] = Field(min_length=1)
    combine: Literal["concatenate", "fuse"]
    ignore_identical_ids: bool


class Hnsw(Group):
    m: Annotated[int, Field(ge=2)]
    ef_construction: Positive
    ef_search: Positive


class Dense(Group):
    encoder: str | None = Field(min_length=1)
    index: str = Field(min_length=1)
    hnsw: Hnsw
    expansion: Literal["concatenate", "mean"]
    query_prefix: str | None
    batch_size: Positive

    @property
    def builds(self) -> bool:
        """Whether the index is made here, rather than downloaded."""
        return self.index in ("exact", "hnsw")


class Exemplars(Group):
    k: Positive
    choose: Literal["ids", "random", "diverse", "similar"]
    ids: list[Id]
    passages: Literal["judged", "retrieved"]
    max_words: Positive
    max_tokens: Positive | None

    @model_validator(mode="after")
    def _k_ids(self) -> "Exemplars":
        if self.choose == "ids" and not len(set(self.ids)) == len(self.ids) == self.k:
            raise ValueError(f"ids must be k = {self.k} different query ids where choose is ids")
        return self


class Prices(Group):
    """Of a million tokens, in any one currency."""

    prompt: float = Field(ge=0)
    cached: float = Field(ge=0)
    completion: float = Field(ge=0)


# Names under which keys and passwords stand in requests; max_tokens, stop_token or prompt_cache_key hold none.
_SECRET = re.compile(
    r"(?:^|[_.-])(?:(?:api|access|secret|private|auth|subscription|account|client|master)[_.-]?(?:key|token|secret)"
    r"|password|passwd|pwd|secrets?|credentials?|authorization|authentication|bearer|cookie)(?:[_.-](?:id|key|token))?$"
    r"|^(?:key|token|auth|jwt|pass)$"
)
# Keys as vendors give them out, and headers that hold one.
_KEY = re.compile(
    r"^(?i:bearer|basic)\s+\S{8,}$"
    r"|^(?:(?:sk|pk|rk|xai|nvapi|pplx|tgp)[-_]|(?:gsk|hf|ghp|r8|fw)_|AIza|AKIA|eyJ)[A-Za-z0-9_.-]{16,}$"
)


def secret_in(value: Any, key: str = "") -> str | None:
    """The dotted name of what looks like a secret in a request's body; None where there is none.

    Args:
        key: the known one.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(name)).lower()
            if isinstance(item, str) and item and _SECRET.search(snake):
                return str(name)
            if (found := secret_in(item, key)) is not None:
                return f"{name}.{found}".removesuffix(".")
    if isinstance(value, list):
        return next((found for item in value if (found := secret_in(item, key)) is not None), None)
    if isinstance(value, str) and (_KEY.match(value) or (len(key) >= 8 and key in value)):
        return ""
    return None


class Api(Group):
    base_url: Address
    key_variable: Variable | None
    extra_body: dict[str, Any]
    concurrency: Positive
    requests_per_minute: Positive | None
    tokens_per_minute: Positive | None
    timeout: float = Field(gt=0)
    attempts: Positive
    prices: Prices | None

    @model_validator(mode="after")
    def _ours(self) -> "Api":
        if ours := {"model", "messages", "stream", "n"} & set(self.extra_body):
            raise ValueError(f"extra_body must not set {', '.join(sorted(ours))}")
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except (TypeError, ValueError) as error:  # a date, .inf
            raise ValueError(f"extra_body holds what JSON cannot: {error}; put quotes around it") from None
        if found := secret_in(self.extra_body, os.environ.get(self.key_variable or "", "").strip()):
            raise ValueError(
                f"extra_body.{found} looks like a secret, which files and logs would keep: put the key into the "
                "environment variable that key_variable names"
            )
        limits = ("max_tokens", "max_completion_tokens")
        if wrong := [name for name in limits if not isinstance(self.extra_body.get(name, 1), int | None)]:
            raise ValueError(f"extra_body.{wrong[0]} must be a whole number or null")
        return self


class Teacher(Group):
    generator: Literal["recorded", "local", "api"]
    recordings: str
    model: str | None
    samples: Positive
    max_words: Positive
    max_new_tokens: Positive
    temperature: Temperature
    batch_size: Positive
    asks: Positive
    tolerance: Share
    max_cost: float | None = Field(gt=0)
    api: Api
    exemplars: Exemplars

    @model_validator(mode="after")
    def _source(self) -> "Teacher":
        if self.generator != "recorded" and not self.model:
            raise ValueError(f"model must be set where generator is {self.generator}")
        if self.generator != "recorded" and self.samples > 1 and self.temperature == 0:
            raise ValueError("temperature must be above 0 where samples is above 1: greedy samples are all the same")
        if self.generator == "api" and self.max_cost is not None and self.api.prices is None:
            raise ValueError("api.prices must be set where max_cost is")
        return self


class Student(Group):
    model: str
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    chat_template: str | None = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.jinja$")
    prompt: Literal["query", "short", "full"]
    max_words: Positive | None

    @model_validator(mode="after")
    def _pinned(self) -> "Student":
        if self.model.startswith("pypi:") and self.sha256 is None:
            raise ValueError("sha256 must be set where model is a wheel (pypi:NAME==VERSION)")
        return self

    @model_validator(mode="after")
    def _one_wheel(self) -> "Student":
        if self.model.startswith("pypi:") and not _pins(self.model.removeprefix("pypi:")):
            raise ValueError(f"model must be pypi:NAME==VERSION where it is a wheel, and is {self.model!r}")
        return self


def _pins(requirement: str) -> bool:
    """Whether it is NAME==VERSION and nothing else that pip would read."""
    name, pinned, version = requirement.partition("==")
    try:
        canonicalize_name(name, validate=True)
        Version(version)
    except (InvalidName, InvalidVersion):
        return False
    return bool(pinned) and requirement == "".join(requirement.split())


class Generation(Group):
    samples: Positive
    max_new_tokens: Positive
    temperature: Temperature
    batch_size: Positive
    server: Address | None
    key_variable: Variable | None

    @model_validator(mode="after")
    def _different(self) -> "Generation":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("temperature must be above 0 where samples is above 1: greedy samples are all the same")
        return self


class Lora(Group):
    r: Positive
    alpha: float = Field(gt=0)
    dropout: Share
    targets: str | list[str]


class Training(Group):
    """What SFT and DPO share."""

    epochs: float = Field(gt=0)
    learning_rate: LearningRate
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_ratio: Share
    batch_size: Positive
    gradient_accumulation: Positive
    max_length: Positive
    evaluations: int = Field(ge=0)


class Launch(Group):
    """How SFT and DPO are started."""

    launcher: Literal["none", "accelerate"]
    config: str
    processes: Positive


class Sft(Training):
    samples: Positive
    lora: Lora


class Feedback(Group):
    retriever: Literal["sparse", "dense"]
    query_weight: Positive
    samples: int = Field(ge=0)
    temperature: float = Field(gt=0, le=5)


class Pairs(Group):
    candidates: Literal["teacher", "student", "both"]
    strategy: Literal["best-vs-worst", "all", "best-vs-baseline-losers"]
    margin: float = Field(gt=0, le=1)
    per_query: Positive


class Dpo(Training):
    beta: float = Field(gt=0)
    loss: Literal["sigmoid", "hinge", "ipo", "robust", "sigmoid_norm", "apo_zero", "apo_down"]
    sft_weight: float = Field(ge=0)


class Evaluation(Group):
    teacher: Literal["zero_shot", "few_shot"]
    relevance_level: Positive
    test: Literal["student", "fisher"]
    alpha: float = Field(gt=0, lt=1)
    bootstrap: Positive


class Cost(Group):
    queries: Positive
    batch_sizes: list[Positive] = Field(min_length=1)
    price_per_hour: float | None = Field(ge=0)


class Report(Group):
    queries: Positive
    searches: int = Field(ge=0)


class Tracking(Group):
    experiment: str = Field(min_length=1)
    model: str | None = Field(pattern=r"^[^/:.]+$")


class Params(Group):
    """params.yaml as a whole; one group a stage, and what several share."""

    seed: int = Field(ge=0, lt=2**32)
    collection: Collection
    index: Index
    retrieval: Retrieval
    dense: Dense
    teacher: Teacher
    student: Student
    generation: Generation
    training: Launch
    sft: Sft
    feedback: Feedback
    pairs: Pairs
    dpo: Dpo
    evaluation: Evaluation
    cost: Cost
    report: Report
    tracking: Tracking

    @property
    def pair_splits(self) -> tuple[str, ...]:
        """The splits whose queries get candidates and pairs: validation's are for `dpo.evaluations` alone."""
        return ("train", "validation") if self.dpo.evaluations else ("train",)

    @model_validator(mode="after")
    def _validated(self) -> "Params":
        if self.collection.train and not self.collection.validation and self.retrieval.query_weight == "auto":
            raise ValueError(
                "retrieval.query_weight must be a number where collection.validation is 0: it is chosen there"
            )
        return self

    @model_validator(mode="after")
    def _encoded(self) -> "Params":
        if self.feedback.retriever == "dense" and self.dense.encoder is None:
            raise ValueError("dense.encoder must be set where feedback.retriever is dense")
        if self.dense.encoder and self.dense.builds and self.index.prebuilt:
            raise ValueError(
                "dense.index must name a prebuilt index where index.prebuilt does: no document is read then"
            )
        return self

    @model_validator(mode="after")
    def _others(self) -> "Params":
        if unknown := sorted(set(self.index.others) - set(self.collection.tests)):
            raise ValueError(f"index.others names {', '.join(unknown)}, which collection.tests does not")
        return self

    @model_validator(mode="after")
    def _own_samples(self) -> "Params":
        if self.pairs.candidates != "teacher" and self.feedback.samples == 0:
            raise ValueError(f"feedback.samples must be above 0 where pairs.candidates is {self.pairs.candidates}")
        return self

    @model_validator(mode="after")
    def _shared_batches(self) -> "Params":
        if self.training.launcher == "accelerate":
            for name, size in (("sft", self.sft.batch_size), ("dpo", self.dpo.batch_size)):
                if size % self.training.processes:
                    raise ValueError(f"{name}.batch_size must be a multiple of training.processes")
        return self


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate a params file.

    Raises:
        UserError: the file is missing or no YAML, or a key is unknown, missing, of a wrong type or out of range;
            every such key is named.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; run this in the folder of dvc.yaml, or `qedistill use pyapi`")
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: holds no groups of params; `qedistill use pyapi` puts the default in its place")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(_explain(error.errors()))}") from None


def _explain(errors: list[ErrorDetails]) -> list[str]:
    """A clause for each error; a missing parameter whose name an unknown one nearly has is that one's right name."""
    missing = {_key(error) for error in errors if error["type"] == "missing"}
    told = []
    for error in errors:
        key = _key(error)
        match error["type"]:
            case "extra_forbidden":
                group, dot, name = key.rpartition(".")
                names = {
                    name
                    for known in missing
                    if known.rpartition(".")[0] == group and (name := known.rpartition(".")[2])
                }
                near = difflib.get_close_matches(name, names, 1)
                missing -= {f"{group}{dot}{found}" for found in near}
                told.append(f"unknown parameter {key}" + "".join(f", did you mean {found}?" for found in near))
            case "missing":
                pass
            case _:
                # A key or a password, put where it does not belong, must not reach a log.
                hidden = isinstance(error["input"], dict) or key.startswith(
                    ("teacher.api", "generation.server", "generation.key")
                )
                got = "" if hidden else f" (is {error['input']!r})"
                told.append(f"{key}: ".removeprefix(": ") + error["msg"].removeprefix("Value error, ") + got)
    return [f"missing parameter {key}" for key in sorted(missing)] + told


def _key(error: ErrorDetails) -> str:
    # A union adds the name of its branch to the location; that is no key of the file.
    parts = [str(part) for part in error["loc"]]
    return ".".join(part for part in parts if not part.startswith(("function", "constrained", "literal")))
