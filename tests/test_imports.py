"""Who imports whom: tools and datasets -> projects -> dropkey_core, whose rooms are apart."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECTS = [path.parent.name for path in (ROOT / "projects").glob("*/__init__.py")]
SHARED = [path.stem for path in (ROOT / "projects").glob("[a-z]*.py")]  # by all projects
MAY_IMPORT = {  # of other projects
    "qpic": {"detr"},  # QPIC is DETR with other heads
    "paper": set(PROJECTS),  # its tables and figures are about all of them
}
ROOMS = {  # of the library, and which others each may import; the first four need torch alone
    "attention": {"attention"},
    "equip": {"attention", "equip"},
    "variants": {"attention", "equip", "variants"},
    "analysis": {"attention", "equip", "variants", "analysis"},
    "engine": {"engine"},
}
TORCH_ALONE = [room for room in ROOMS if room != "engine"]

# Refuses what is neither torch, nor what torch itself needs or looks for, nor Python's own.
ALONE = """
import importlib, pkgutil, sys, warnings
warnings.simplefilter("ignore")  # torch misses numpy
ALLOWED = set(sys.stdlib_module_names) | set(
    "torch torchgen functorch filelock fsspec jinja2 markupsafe mpmath networkx sympy "
    "typing_extensions triton nvidia cuda setuptools _distutils_hack dropkey_core".split()
)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import dropkey_core
for room in sys.argv[1:]:
    package = importlib.import_module(f"dropkey_core.{room}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        print(importlib.import_module(module.name).__name__)
"""


def imported(path):
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_library_never_imports_a_project():
    for path in (ROOT / "dropkey_core").rglob("*.py"):
        for name in imported(path):
            assert name.split(".")[0] not in ("projects", "tools", "tests"), f"{path}: {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_the_library_are_apart(room):
    paths = list((ROOT / "dropkey_core" / room).rglob("*.py"))
    assert paths
    for path in paths:
        for name in imported(path):
            package, *rest = name.split(".")
            if package == "dropkey_core":
                assert rest and rest[0] in ROOMS[room], f"{path}: {name}"
            elif room in TORCH_ALONE:
                assert package in {"torch", *sys.stdlib_module_names}, f"{path}: {name}"


@pytest.mark.parametrize("project", PROJECTS)
def test_projects_import_no_other_project(project):
    allowed = {project, *SHARED} | MAY_IMPORT.get(project, set())
    for path in (ROOT / "projects" / project).rglob("*.py"):
        for name in imported(path):
            package, *rest = name.split(".")
            assert package not in ("tools", "tests"), f"{path}: {name}"
            assert package != "projects" or rest[0] in allowed, f"{path}: {name}"


@pytest.mark.slow
def test_every_module_but_the_engine_needs_torch_alone():
    """Imports them all where nothing else can be imported, not even numpy."""
    run = subprocess.run(
        [sys.executable, "-c", ALONE, *TORCH_ALONE], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    expected = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in TORCH_ALONE
        for path in (ROOT / "dropkey_core" / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert set(run.stdout.split()) == expected


@pytest.mark.slow
def test_nothing_needs_what_posix_alone_has():
    command = [sys.executable, "tests/no_posix.py", "imports", "dropkey_core", "projects"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"dropkey_core.engine.data", "projects.qpic.mat_file"} <= set(done.stdout.split())
