"""What can be known of a student before its weights are there: from its tokenizer and its configuration alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qedistill.chat import encode
from qedistill.errors import UserError, why_unloadable
from qedistill.layout import TEACHER
from qedistill.params import Params
from qedistill.prompts import STYLES, TEMPLATES
from qedistill.tally import Tally
from qedistill.text import Queries, read_jsonl
from qedistill.training.data import sft_rows, student_prompt
from qedistill.training.model import _reach_hub, read_tokenizer, require_positions, settle_tokenizer
from qedistill.training.run import encode_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def template_path(params: Params) -> Path | None:
    """The file of `student.chat_template`."""
    return TEMPLATES / params.student.chat_template if params.student.chat_template else None


def inspect_student(
    model: str, params: Params, chat_template: Path | None, fetch: bool
) -> "tuple[PreTrainedTokenizerBase, tuple[str, ...]]":
    """Check that a student can be asked, trained and stopped as params want.

    Args:
        model: a hub id or a local folder.
        chat_template: as for `fetch_student`.
        fetch: from the hub, what is not in its cache.

    Returns:
        Its tokenizer, with the settled chat template, and what was mended in that.

    Raises:
        UserError: it cannot be read, its chat template cannot serve (`chat.settle`, `chat.end_of_turn`), or it reads
            fewer tokens than `sft.max_length`, `dpo.max_length` or a prompt with `generation.max_new_tokens`.
    """
    tokenizer, config = _read(model, fetch)
    notes = settle_tokenizer(tokenizer, model, chat_template)
    prompts = [student_prompt("query", params.student, params.collection, trained) for trained in (True, False)]
    longest = max(map(len, encode(tokenizer, prompts)))
    learnt = {"sft.max_length": params.sft.max_length, "dpo.max_length": params.dpo.max_length}
    lengths = learnt if params.collection.train is not None else {}
    asked = f"generation.max_new_tokens with a prompt of {longest} tokens"
    lengths |= {asked: longest + params.generation.max_new_tokens}
    require_positions(config, lengths, f"student.model {model}")
    return tokenizer, notes


def count_rows(
    queries: Mapping[str, Queries],
    answered: bool,
    tokenizer: "PreTrainedTokenizerBase",
    params: Params,
    tally: Tally,
) -> None:
    """Count what SFT would leave out or cut of the rows to some queries.

    Args:
        queries: by split, `train` and `validation`.
        answered: the teacher's answers are there; else a row is counted for each query, with an answer of one word.

    Raises:
        UserError: no training row is left.
    """
    wanted = params.sft
    answers = [a for style in STYLES for a in read_jsonl(TEACHER / f"{style}.jsonl")] if answered else []
    for split, own in queries.items():
        if not answered:
            answers = [{"query_id": query_id, "sample": 0, "text": "word"} for query_id in own]
        rows = sft_rows(own, answers, wanted.samples, params.student, params.collection, tally)
        name = "training" if split == "train" else split
        encode_rows(rows, tokenizer, wanted.max_length, "sft", tally, name)


def _read(model: str, fetch: bool) -> "tuple[PreTrainedTokenizerBase, dict[str, Any]]":
    from transformers import PretrainedConfig

    folder, name = Path(model).expanduser(), f"student.model {model}"
    if fetch and not folder.is_dir():
        _reach_hub(model, "student.model")
    source = str(folder) if folder.is_dir() else model
    tokenizer = read_tokenizer(source, name, local_files_only=not fetch)
    try:
        return tokenizer, PretrainedConfig.get_config_dict(source, local_files_only=not fetch)[0]
    except Exception as error:  # noqa: BLE001 - of broken files each reader has its own
        raise UserError(f"{name}: its config.json cannot be read: {why_unloadable(error)}") from None
