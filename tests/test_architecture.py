"""The house: imports point one way, files stay short, and the package opens fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg
from thalweg.core.catalogue import SHELVES

SOURCE = Path(thalweg.__file__).parent
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
ORDER = {
    "errors": -1,
    "core": 0,
    "calculus": 0.5,
    "shelf": 1,
    "engine": 2,
    "solve": 2,
    "optim": 2.5,
    "explain": 2.8,
    "launch": 3,
    "study": 3,
    "cli": 4,
}
LIBRARIES = {"torch", "numpy", "sklearn", "scipy", "pandas", "matplotlib", *sys.stdlib_module_names}
LONGEST = 300


def place(module: str) -> str:
    """The part of the house a module belongs to: `thalweg.engine.fleet.rig` -> engine."""
    part = module.split(".")[1] if "." in module else "cli"  # `thalweg` itself names everything, lazily, as the command line does
    if part in SHELVES:
        return "shelf"
    if part in ORDER:
        return part
    return "cli" if (SOURCE / f"{part}.py").is_file() else part  # the command line and its helpers stand at the top


def imports(path: Path) -> list[str]:
    """Every module that a file imports, anywhere in it: also inside functions."""
    package = ["thalweg", *path.parent.parts]
    found = []
    for node in ast.walk(ast.parse((SOURCE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module
            # `from thalweg.core import catalogue` names a module, `from thalweg.core import rule` a thing in one
            deeper = [f"{base}.{alias.name}" for alias in node.names]
            found += [name if _is_module(name) else base for name in deeper]
    return found


def _is_module(name: str) -> bool:
    path = SOURCE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_the_reader_of_imports_sees_them():
    assert "thalweg.core.catalogue" in imports(Path("study/sweep.py"))
    assert "thalweg.engine.fleet.fleet" in imports(Path("study/sweep.py"))
    assert "cloudpickle" in imports(Path("launch/local.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path):
    here = place(".".join(["thalweg", *path.with_suffix("").parts]))
    assert here in ORDER, f"{here} has no place in the order of imports"
    for name in imports(path):
        if name.split(".")[0] == "thalweg" and path != Path("__init__.py"):
            there = place(name)
            assert ORDER[there] <= ORDER[here], f"{path} must not import {name}"
            assert not (here == "engine" and there == "shelf"), f"{path} must receive what it needs from {name} as an argument"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in SHELVES], ids=str)
def test_shelves_import_core_calculus_and_libraries_only(path):
    parts = f"thalweg.{path.parts[0]}.layers"  # what entries of a shelf are made of may lie in it
    for name in imports(path):
        assert name.split(".")[0] in LIBRARIES or name.startswith(("thalweg.core", "thalweg.errors", "thalweg.calculus", parts)), (
            f"{path} must not import {name}"
        )


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_fit_in_one_sitting(path):
    lines = len((SOURCE / path).read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{path} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_begin_by_saying_what_they_are(path):
    assert ast.get_docstring(ast.parse((SOURCE / path).read_text(encoding="utf-8")))


@pytest.mark.parametrize("heavy", ["torch", "pandas", "scipy", "sklearn", "matplotlib"])
def test_import_thalweg_imports_nothing_heavy(heavy, light):
    assert heavy not in light


@pytest.fixture(scope="module")
def light() -> set[str]:
    """The modules that `import thalweg` loads in a fresh interpreter."""
    code = "import sys; before = set(sys.modules); import thalweg; print(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "thalweg" in run.stdout.split()
    return set(run.stdout.split())


def test_every_public_name_is_where_it_is_said_to_be():
    for name in set(thalweg.__all__) - {"__version__"}:
        assert getattr(thalweg, name) is not None
    assert set(dir(thalweg)) >= set(thalweg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'optimiser'"):
        thalweg.optimiser  # noqa: B018
