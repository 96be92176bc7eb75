"""Waiting OpenMP threads spin unless told otherwise before torch is imported."""

import os
import subprocess
import sys

import pytest

from dropkey_core.engine.paths import PROJECT_ROOT

LOOK = """
import contextlib, os, runpy, sys
class Finder:
    def find_spec(self, name, *others):
        if name == "torch":
            raise SystemExit
sys.meta_path.insert(0, Finder())
given = os.environ.get("OMP_WAIT_POLICY")
for script in sys.argv[1:]:
    os.environ.pop("OMP_WAIT_POLICY", None)
    if given:
        os.environ["OMP_WAIT_POLICY"] = given
    with contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="imported")
    print(os.environ.get("OMP_WAIT_POLICY"))
"""
COMMANDS = ["analyze", "gpu_check", "predict", "reproduce", "train_net", "visualize"]
COMMANDS += [f"benchmark/{name}" for name in ("alignment", "attention", "model")]


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_give_way_unless_the_user_wants_otherwise(given):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    scripts = [str(PROJECT_ROOT / f"tools/{name}.py") for name in COMMANDS]
    command = [sys.executable, "-c", LOOK, *scripts]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert dict(zip(COMMANDS, ran.stdout.split(), strict=True)) == dict.fromkeys(
        COMMANDS, given or "PASSIVE"
    ), ran.stderr
