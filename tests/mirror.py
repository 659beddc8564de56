"""Stands for the network in a copy of the project, whose `sitecustomize` it is: the addresses, sizes and checksums of what
ir_datasets and pyserini fetch are those of mirror.json, beside it."""

import importlib.abc
import importlib.machinery
import json
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ENTRIES = json.loads((Path(__file__).parent / "mirror.json").read_text())
_get_data = pkgutil.get_data


def get_data(package: str, resource: str) -> bytes | None:
    data = _get_data(package, resource)
    if (package, resource) != ("ir_datasets", "etc/downloads.json") or data is None:
        return data
    downloads = json.loads(data)
    for dataset, files in ENTRIES["ir_datasets"].items():
        for name, entry in files.items():
            downloads[dataset][name] |= entry
    return json.dumps(downloads).encode()


class Registry(importlib.abc.MetaPathFinder):
    """Finds pyserini's list of indexes, and changes it as soon as it is read."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "pyserini.prebuilt_index_info":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for index, entry in ENTRIES["pyserini"].items():
                module.TF_INDEX_INFO[index] |= entry

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


pkgutil.get_data = get_data
sys.meta_path.insert(0, Registry())
