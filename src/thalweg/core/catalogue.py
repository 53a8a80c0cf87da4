"""The catalogue: every plural folder is a shelf, and a file in it is found by being there.

An entry is a public object at the top of a file whose attribute `shelf` names the folder: what `@rule`, `@schedule`,
`@wrapper` and the other declarations return. Nothing is registered anywhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from thalweg.errors import UserCodeError, UserError, unknown

SHELVES = (
    "optimizers", "wrappers", "schedules", "losses", "regularizers", "models", "datasets", "pictures", "sets",
    "functions", "directions", "searches", "probes", "causes",
)  # fmt: skip


def stock(package: dict[str, Any]) -> list[str]:
    """Called by a shelf's `__init__`: import its files and lay the entries into the package's namespace."""
    found: dict[str, Any] = {}
    for info in sorted(pkgutil.iter_modules(package["__path__"]), key=lambda info: info.name):
        module = importlib.import_module(f"{package['__name__']}.{info.name}")
        found |= entries(module, package["__name__"].rpartition(".")[2])
    package.update(found)
    return sorted(found)


def entries(module: Any, shelf: str) -> dict[str, Any]:
    """The entries of one file, in the order in which they stand there."""
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and getattr(v, "shelf", None) == shelf}


def shelf(name: str) -> Mapping[str, Any]:
    """All entries of a shelf by their public name (`-` for `_`), sorted."""
    if name not in SHELVES:
        raise unknown("shelf", name, SHELVES)
    package = importlib.import_module(f"thalweg.{name}")
    return {_public(name, key): getattr(package, key) for key in package.__all__}


def _public(shelf: str, key: str) -> str:
    return key.replace("_", "-") if shelf in ("datasets", "models", "functions", "directions") else key


def find(shelf_name: str, name: str, kind: str | None = None) -> Any:
    """The entry called `name` on a shelf, or the object in a user's file when the name is `file.py:object`."""
    if ".py:" in name:
        return load(name)
    known = shelf(shelf_name)
    if name not in known:
        raise unknown(kind or shelf_name.removesuffix("s"), name, known)
    return known[name]


def load(reference: str) -> Any:
    """The object that the user names as `file.py:object`; this runs their file, as they asked."""
    path_text, _, attribute = reference.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise UserError(f"there is no file {path_text}; `{reference}` should name an existing file and an object in it")
    name = f"_thalweg_user_{path.stem}_{abs(hash(str(path.resolve()))):x}"
    if name in sys.modules:
        module = sys.modules[name]
    else:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(path.resolve().parent))
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise UserCodeError(f"{path_text} could not be imported: {type(error).__name__}: {error}") from error
        finally:
            sys.path.pop(0)
        # worker processes have not imported the file: what is in it travels to them by value
        cloudpickle.register_pickle_by_value(module)
    if not hasattr(module, attribute):
        raise unknown(f"object in {path_text}", attribute, [k for k in vars(module) if not k.startswith("_")])
    return getattr(module, attribute)
