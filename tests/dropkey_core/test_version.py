"""One version: that of the module is that of the package, which is built without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import dropkey_core

ROOT = Path(__file__).parents[2]


def test_the_package_has_the_modules_version_and_needs_no_torch_to_be_built():
    pytest.importorskip("setuptools", minversion="77")
    code = 'import runpy, sys; sys.modules["torch"] = None; runpy.run_path("setup.py")'
    command = [sys.executable, "-W", "ignore", "-c", code, "--version"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == dropkey_core.__version__
