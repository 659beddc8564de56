"""pyapi: the docstrings of the public Python API as a judged collection, read from the packages installed.

Documents are read at run time, never shipped: docstrings are other people's text. Queries, splits and judgments come
from a folder of the project, `recordings/pyapi`; README.md there tells how they were made.
"""

import importlib
import inspect
import re
import sys
import types
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ir_datasets
from ir_datasets import Dataset

from qedistill.collection.memory import Docs, JudgedQueries
from qedistill.collection.memory import TitledDoc as Doc
from qedistill.errors import UserError
from qedistill.text import open_text, read_qrels, read_queries

# Submodules that their packages document as public; top-level modules of the standard library need no entry.
SUBMODULES = [
    "collections.abc",
    "concurrent.futures",
    "email.message",
    "email.mime.text",
    "email.parser",
    "html.parser",
    "http.client",
    "http.cookies",
    "http.server",
    "importlib.metadata",
    "importlib.resources",
    "importlib.util",
    "json.decoder",
    "logging.config",
    "logging.handlers",
    "multiprocessing.pool",
    "multiprocessing.shared_memory",
    "os.path",
    "unittest.mock",
    "urllib.error",
    "urllib.parse",
    "urllib.request",
    "wsgiref.simple_server",
    "xml.etree.ElementTree",
    "xmlrpc.client",
    "numpy",
    "numpy.char",
    "numpy.fft",
    "numpy.linalg",
    "numpy.ma",
    "numpy.polynomial",
    "numpy.random",
    "numpy.testing",
    "pandas",
    "pandas.api.types",
    "pandas.plotting",
    "pandas.testing",
    "scipy.cluster.hierarchy",
    "scipy.cluster.vq",
    "scipy.constants",
    "scipy.fft",
    "scipy.integrate",
    "scipy.interpolate",
    "scipy.io",
    "scipy.linalg",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.sparse.csgraph",
    "scipy.sparse.linalg",
    "scipy.spatial",
    "scipy.spatial.distance",
    "scipy.special",
    "scipy.stats",
    "sklearn.cluster",
    "sklearn.compose",
    "sklearn.covariance",
    "sklearn.datasets",
    "sklearn.decomposition",
    "sklearn.dummy",
    "sklearn.ensemble",
    "sklearn.feature_extraction",
    "sklearn.feature_extraction.text",
    "sklearn.feature_selection",
    "sklearn.gaussian_process",
    "sklearn.impute",
    "sklearn.inspection",
    "sklearn.isotonic",
    "sklearn.kernel_approximation",
    "sklearn.linear_model",
    "sklearn.manifold",
    "sklearn.metrics",
    "sklearn.mixture",
    "sklearn.model_selection",
    "sklearn.multiclass",
    "sklearn.naive_bayes",
    "sklearn.neighbors",
    "sklearn.neural_network",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "sklearn.random_projection",
    "sklearn.svm",
    "sklearn.tree",
    "sklearn.utils",
]

# Left out: modules whose import opens a window, prints or warns of removal, and those that repeat others.
SKIPPED = [
    "antigravity",
    "this",
    "idlelib",
    "tkinter",
    "turtle",
    "turtledemo",
    "lib2to3",
    "test",
    "distutils",
    "msilib",
    "msvcrt",
    "winreg",
    "winsound",
    "nt",
    "aifc",
    "asynchat",
    "asyncore",
    "audioop",
    "cgi",
    "cgitb",
    "chunk",
    "crypt",
    "imghdr",
    "imp",
    "mailcap",
    "nis",
    "nntplib",
    "ossaudiodev",
    "pipes",
    "smtpd",
    "sndhdr",
    "spwd",
    "sunau",
    "telnetlib",
    "uu",
    "xdrlib",
    "ntpath",
    "posixpath",
    "nturl2path",
    "encodings",
    "ensurepip",
    "opcode",
    "pyclbr",
    "symtable",
    "tabnanny",
    "venv",
]

# Third-party classes whose methods are documents too; those of every class of the standard library are.
METHODS_OF = [
    "numpy.ndarray",
    "numpy.random.Generator",
    "pandas.DataFrame",
    "pandas.Series",
    "pandas.Index",
    "pandas.Timestamp",
]

MIN_WORDS, MAX_WORDS = 3, 110
MAX_MISSING = 0.02  # share of the judged documents that other versions of the packages may lack


def register(folder: Path) -> None:
    """Make `pyapi` and `pyapi/<split>` known to ir_datasets, with queries and judgments from a recordings folder.

    Raises:
        UserError: a file is missing or malformed, or the packages installed lack over 2 % of the judged documents.
    """
    queries, qrels = read_queries(folder / "queries.tsv"), read_qrels(folder / "qrels.txt")
    splits = read_split_names(folder)
    docs = extract()
    judged = {doc_id for grades in qrels.values() for doc_id in grades}
    missing = judged - {doc.doc_id for doc in docs}
    if len(missing) > MAX_MISSING * len(judged):
        raise UserError(
            f"{folder}/qrels.txt: {len(missing)} of {len(judged)} judged documents are not in the packages installed "
            f"(such as {min(missing)}): install the versions of requirements.lock under Python 3.11"
        )
    registered: dict[str, Dataset] = {"pyapi": Dataset(Docs(docs))}
    for split in sorted(set(splits.values())):
        ids = [query_id for query_id in queries if splits.get(query_id) == split]
        registered[f"pyapi/{split}"] = Dataset(
            Docs(docs), JudgedQueries({i: queries[i] for i in ids}, {i: qrels.get(i, {}) for i in ids})
        )
    for name, dataset in registered.items():
        if name not in ir_datasets.registry:
            ir_datasets.registry.register(name, dataset)


def read_split_names(folder: Path) -> dict[str, str]:
    """Query id → split, from `splits.tsv` of a recordings folder.

    Raises:
        UserError: the file is missing, or a line has not two columns.
    """
    path, splits = folder / "splits.tsv", {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            columns = line.split()
            if len(columns) != 2:
                raise UserError(f"{path}:{number}: not `query_id<TAB>split`: {line.strip()!r}")
            splits[columns[0]] = columns[1]
    return splits


def extract() -> list[Doc]:
    """The documents: one for each distinct docstring of the public API, sorted by id.

    The id is the name whose last part is the object's own `__name__`, else the shortest; the title is the id and its
    words; the text is the first 110 words of the docstring.
    """
    names: dict[str, dict[str, Any]] = defaultdict(dict)  # text -> names of the objects that have it
    for name, value in _objects():
        if isinstance(docstring := getattr(value, "__doc__", None), str):
            words = inspect.cleandoc(docstring).split()[:MAX_WORDS]
            if len(words) >= MIN_WORDS:
                names[" ".join(words)].setdefault(name, value)
    docs = {_choose(group): text for text, group in names.items()}
    return [Doc(doc_id, f"{doc_id} {_split_words(doc_id)}", text) for doc_id, text in sorted(docs.items())]


def _objects() -> Iterator[tuple[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in [*sorted(sys.stdlib_module_names - set(SKIPPED)), *SUBMODULES]:
            if name.startswith("_"):
                continue
            try:
                module = importlib.import_module(name)
            except ImportError:  # this build of Python lacks it
                continue
            yield name, module
            yield from _members(name, module)


def _members(name: str, module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    standard = name.split(".")[0] in sys.stdlib_module_names
    listed = getattr(module, "__all__", None)
    prefix = "" if name == "builtins" else f"{name}."
    for attribute in sorted(listed or (n for n in dir(module) if not n.startswith("_"))):
        try:
            value = getattr(module, attribute, None)
        except ImportError:  # scikit-learn's experimental names, until they are enabled
            continue
        # Where a module does not list its names, what it imported for its own use is not its API.
        foreign = listed is None and getattr(value, "__module__", name) not in (name, f"_{name}", None)
        warning = not standard and inspect.isclass(value) and issubclass(value, Exception)
        if foreign or warning or not callable(value):
            continue
        path = f"{prefix}{attribute}"
        yield path, value
        if inspect.isclass(value) and (standard or path in METHODS_OF):
            for method in sorted(vars(value) if standard else dir(value)):
                bound = getattr(value, method, None)
                if not method.startswith("_") and (callable(bound) or isinstance(bound, property)):
                    yield f"{path}.{method}", bound


def _choose(group: dict[str, Any]) -> str:
    own = [name for name, value in group.items() if name.split(".")[-1] == getattr(value, "__name__", None)]
    return min(own or group, key=lambda name: (len(name), name))


def _split_words(name: str) -> str:
    """`numpy.isClose_to` as `numpy is Close to`, so that a query's plain words can match a name."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name))
