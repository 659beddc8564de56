"""Answers of the student on a vLLM server, which has its base and loads its adapters from their folders."""

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qedistill.chat import encode
from qedistill.errors import UserError
from qedistill.generation.client import Client, Names, NoAnswer
from qedistill.generation.endings import ending
from qedistill.generation.replies import words_of
from qedistill.params import Api, Generation
from qedistill.progress import calls_bar
from qedistill.prompts import Messages
from qedistill.text import read_json
from qedistill.training.model import ADAPTER, load_tokenizer

_NAMES = Names("generation.server", "generation.key_variable", "the time of a request")
_TIMEOUT = 600.0  # seconds for all samples of a query
_ATTEMPTS = 8


def generate(
    student: Path,
    base: Path | None,
    prompts: Mapping[str, Messages],
    samples: int,
    temperature: float,
    wanted: Generation,
    seed: int,
) -> list[dict[str, Any]]:
    """Answer each prompt `samples` times on `generation.server`, with `generation.batch_size` samples under way.

    What is sent are the tokens of the local path, and its sampling, whatever the server's defaults are; each query has a
    seed of its own. The server is asked first what it serves; an adapter that it lacks is loaded under a name that
    changes with its weights, so that one trained anew is never taken for the old one.

    Args:
        student: folder of a plain model, or of an adapter on that in `base`.

    Returns:
        Records as `generation.local.generate` gives them.

    Raises:
        UserError: no student is there, the server cannot be reached, serves another base, does not load the adapter,
            or leaves a query without an answer.
    """
    adapter = (student / ADAPTER).exists()
    plain = base if adapter and base is not None else student
    if not (plain / "config.json").exists():
        raise UserError(f"{plain}: no student here; `dvc repro` makes it")
    tokenizer = load_tokenizer(student)
    defaults = read_json(plain / "generation_config.json")
    ends = defaults.get("eos_token_id")
    options = {
        "n": samples,
        "max_tokens": wanted.max_new_tokens,
        "temperature": temperature,
        # Else vLLM takes them from the model's generation_config.json, of which the local path takes this alone.
        "repetition_penalty": defaults.get("repetition_penalty") or 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "stop_token_ids": [ends] if isinstance(ends, int) else list(ends or []),
        "return_token_ids": True,
    }
    asking = _Asking(_api(wanted, samples), student, plain, options, seed)
    rows = dict(zip(prompts, encode(tokenizer, prompts.values()), strict=True))
    answers = asyncio.run(asking.run(rows))
    return [
        {
            "query_id": query,
            "sample": sample,
            "text": str(tokenizer.decode(tokens, skip_special_tokens=True)),
            "prompt_tokens": len(rows[query]),
            "completion_tokens": len(tokens),
        }
        for query, texts in zip(rows, answers, strict=True)
        for sample, tokens in enumerate(texts)
    ]


def _api(wanted: Generation, samples: int) -> Api:
    return Api(
        base_url=str(wanted.server),
        key_variable=wanted.key_variable,
        extra_body={},
        concurrency=max(1, wanted.batch_size // samples),
        requests_per_minute=None,
        tokens_per_minute=None,
        timeout=_TIMEOUT,
        attempts=_ATTEMPTS,
        prices=None,
    )


class _Asking:
    """One run of `generate`."""

    def __init__(self, api: Api, student: Path, plain: Path, options: dict[str, Any], seed: int) -> None:
        self.api, self.student, self.plain, self.options, self.seed = api, student, plain, options, seed
        self.client = Client(api, _NAMES)
        self.where = f"generation.server {api.base_url}"

    async def run(self, rows: Mapping[str, list[int]]) -> list[list[list[int]]]:
        """The tokens of each row's samples."""
        gate = asyncio.Semaphore(self.api.concurrency)
        tokens = 0

        async def one(query: str, prompt: list[int]) -> list[list[int]]:
            nonlocal tokens
            async with gate:
                answer = await self._complete(model, query, prompt)
            tokens += len(prompt) + sum(map(len, answer))
            bar(1, tokens, None, 0)
            return answer

        async with self.client.opened():
            model = await self._model()
            with calls_bar("Expanding", len(rows)) as bar:
                return await asyncio.gather(*(one(query, prompt) for query, prompt in rows.items()))

    async def _model(self) -> str:
        """What the server calls the student.

        Raises:
            UserError: it cannot be reached, serves another base, or does not load the adapter.
        """

        try:
            cards = await self.client.call("GET", "/models", _cards)
        except NoAnswer as error:
            raise UserError(
                f"{self.where} cannot be asked ({error}): start vLLM there as docs/scale.md tells, or set it to null, and "
                "the student writes on this machine"
            ) from None
        bases = [card for card in cards if not card.get("parent")]
        fitting = [card for card in bases if card.get("root") is None or _is(card["root"], self.plain)]
        if not fitting:
            served = ", ".join(str(card["root"]) for card in bases) or "no base"
            raise UserError(
                f"{self.where} serves {served}, not {self.plain}: start vLLM with the folder {self.plain.resolve()}"
            )
        if self.plain == self.student:
            return str(fitting[0]["id"])
        name = adapter_name(self.student)
        if name not in {card["id"] for card in cards}:
            await self._load(name)
        return name

    async def _load(self, name: str) -> None:
        folder = str(self.student.resolve())

        body = {"lora_name": name, "lora_path": folder}
        try:
            # Once: vLLM answers 500 to an adapter that it will never take.
            await self.client.call("POST", "/load_lora_adapter", lambda told, _: told, body, attempts=1)
        except NoAnswer as error:
            if "already been loaded" in str(error):  # by another process since it was asked
                return
            rank = read_json(self.student / ADAPTER)["r"]
            raise UserError(
                f"{self.where} does not load the adapter {folder} ({error}): start vLLM as docs/scale.md tells, with "
                f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and --max-lora-rank {rank} or more, where it can "
                "read that folder"
            ) from None

    async def _complete(self, model: str, query: str, prompt: list[int]) -> list[list[int]]:
        body = {"model": model, "prompt": prompt, "seed": _seed(self.seed, query)} | self.options

        try:
            return await self.client.call(
                "POST", "/completions", lambda told, _: _samples(told, self.options["n"]), body
            )
        except NoAnswer as error:
            raise UserError(
                f"{self.where} leaves query {query} without an answer ({error}): see to the server, then run it again"
            ) from None


def adapter_name(folder: Path) -> str:
    """What an adapter is called on a server: its folder's name and a digest of its weights and of where they are.

    vLLM reads an adapter that it has put aside again from its folder, so the same weights elsewhere are another one.
    """
    digest = hashlib.sha256(f"{_digest(folder)} {folder.resolve()}".encode()).hexdigest()
    return f"{folder.name}-{digest[:8]}"


def _digest(folder: Path) -> str:
    """Of a model's or an adapter's weights and configuration."""
    whole = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")]):
        with path.open("rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def _is(root: Any, plain: Path) -> bool:
    """Whether what a server was started with is a model here: the same folder, or a copy, as in DVC's experiments."""
    here, there = plain.resolve(), Path(str(root))
    if not there.is_absolute():  # to a folder that only the server knows
        return here.parts[-len(there.parts) :] == there.parts
    return there.is_dir() and (there.samefile(here) or _digest(there) == _digest(here))


def _seed(seed: int, query: str) -> int:
    """A query's own: vLLM counts up from it for its samples, so those of two queries must lie far apart."""
    return int.from_bytes(hashlib.sha256(f"{seed} {query}".encode()).digest()[:6])


def _cards(body: Any, _: float) -> list[dict[str, Any]]:
    """The models in a server's list.

    Raises:
        ValueError: it is no such list.
    """
    cards = body.get("data") if isinstance(body, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) and "id" in card for card in cards):
        raise ValueError(words_of(body) or "not a list of models")
    return cards


def _samples(body: Any, count: int) -> list[list[int]]:
    """The tokens of each sample in a completion.

    Raises:
        ValueError: the body is no completion of so many samples, or one that the server broke off.
        UserError: the server does not tell tokens.
    """
    try:
        choices = sorted(body["choices"], key=lambda choice: choice["index"])
        if any(choice.get("token_ids") is None for choice in choices):
            raise UserError("generation.server answers without token_ids: take vLLM 0.10.2 or later")
        tokens = [list(map(int, choice["token_ids"])) for choice in choices]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(words_of(body) or f"not a completion: {error!r}") from None
    if len(tokens) != count:
        raise ValueError(f"{len(tokens)} samples instead of {count}")
    if broken := {str(reason) for choice in choices if ending(reason := choice.get("finish_reason")) == "broken"}:
        raise ValueError(f"the server broke the answer off: {', '.join(sorted(broken))}")
    return tokens
