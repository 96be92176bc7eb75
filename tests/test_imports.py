"""Who imports whom: tools -> projects -> dropkey_core, and the library needs nothing but torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECTS = [path.parent.name for path in (ROOT / "projects").glob("*/__init__.py")]
MAY_IMPORT = {"qpic": {"detr"}}  # QPIC is DETR with other heads


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


@pytest.mark.parametrize("project", PROJECTS)
def test_projects_import_no_other_project(project):
    allowed = {project} | MAY_IMPORT.get(project, set())
    for path in (ROOT / "projects" / project).rglob("*.py"):
        for name in imported(path):
            package, *rest = name.split(".")
            assert package not in ("tools", "tests"), f"{path}: {name}"
            assert package != "projects" or rest[0] in allowed, f"{path}: {name}"


def test_the_library_needs_nothing_but_torch():
    """What importing it adds to what torch has imported: itself and the standard library."""
    code = (
        "import sys, torch; before = set(sys.modules); import dropkey_core; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    added = set(run.stdout.split()) - sys.stdlib_module_names
    assert added == {"dropkey_core"}
