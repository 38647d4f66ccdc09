"""Imports go one way: the direction that docs/architecture.md states.

Every import statement counts, those inside functions and for type checking as well. Builders named by a lazy path
(`arch.catalogue.Descriptor.builder`) are text, not imports; through them arch knows of nn without depending on it.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import detsearch

ROOT = Path(detsearch.__file__).parent

LAYERS = [
    {"errors", "types", "files", "intervals", "signals", "yamlfile"},
    {"arch"},
    {"search", "nn"},
    {"build"},
    {"data", "runtime"},
    {"cost"},
    {"training", "evaluation"},
    {"supernet"},
    {"runs"},
    {"report"},
    {"cli"},
    {"__main__"},
]
"""A package imports from layers above its own in this list, never from its own or below."""

BASE = LAYERS[0] | {""}
"""May import each other; "" is the package itself, which has the version."""

SEARCH_IS_KNOWN_TO = {"training", "supernet", "runs", "report", "cli"}
"""training and supernet: by the context that a trial hands to them."""

NO_TORCH = ("arch", "search")
TORCH = {"torch", "torchvision", "timm"}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source: str) -> set[str]:
    """Dotted names of all modules, or of names in modules, that a source imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@cache
def graph() -> dict[str, set[str]]:
    """Module -> modules of detsearch that it imports."""
    edges = {}
    for module, path in modules().items():
        edges[module] = set()
        for name in imported(path.read_text()):
            if name.split(".")[0] == "detsearch":
                target = name if name in modules() else name.rpartition(".")[0]
                assert target in modules(), f"{module} imports {name}, which does not exist"
                edges[module].add(target)
    return edges


def package(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def wrong(importer: str, target: str) -> bool:
    """May a module of package `importer` not import from package `target`?"""
    if importer == target or {importer, target} <= BASE or target == "":
        return False
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    return rank[importer] <= rank[target] or (target == "search" and importer not in SEARCH_IS_KNOWN_TO)


def test_every_package_has_a_layer():
    assert {package(module) for module in modules()} == set().union(*LAYERS) | {""}


def test_imports_go_one_way():
    assert [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if wrong(package(module), package(target))
    ] == []


def test_packages_form_no_cycle():
    edges: dict[str, set[str]] = {}
    for module, targets in graph().items():
        edges.setdefault(package(module), set()).update(map(package, targets))
    graphlib.TopologicalSorter({name: targets - {name} for name, targets in edges.items()}).prepare()


@pytest.mark.parametrize("without", NO_TORCH)
def test_no_torch_in_the_source(without):
    assert [
        f"{module} imports {name}"
        for module, path in modules().items()
        if package(module) == without
        for name in imported(path.read_text())
        if name.split(".")[0] in TORCH
    ] == []


def test_arch_and_search_load_no_torch():
    names = [module for module in modules() if package(module) in NO_TORCH]
    assert len(names) > 10
    code = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
    code += f"sys.exit(', '.join({TORCH!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_walk_sees_what_it_should():
    source = "import a.b\nfrom c import d, e\ndef f():\n    from g.h import i\n    if True:\n        import torch\n"
    assert imported(source) == {"a.b", "c.d", "c.e", "g.h.i", "torch"}
    assert wrong("nn", "search")
    assert wrong("search", "nn")
    assert wrong("arch", "nn")
    assert wrong("data", "runtime")
    assert wrong("errors", "arch")
    assert not wrong("cli", "errors")
    assert "detsearch.types" in graph()["detsearch.cost.count"]
