"""Waiting OpenMP threads spin unless told otherwise before torch is imported."""

import os
import subprocess
import sys

import pytest

from dropkey_core.engine.paths import PROJECT_ROOT

LOOK = """
import os, runpy, sys
class Finder:
    def find_spec(self, name, *others):
        if name == "torch":
            raise SystemExit
sys.meta_path.insert(0, Finder())
try:
    runpy.run_path(sys.argv[1], run_name="imported")
finally:
    print(os.environ.get("OMP_WAIT_POLICY"))
"""
COMMANDS = ["analyze", "reproduce", "train_net", "visualize_detections", "visualize_interactions"]
COMMANDS += ["visualize_masks", "visualize_mesh", "gpu_check"]
COMMANDS += [
    f"benchmark/{name}" for name in ("alignment", "attention", "evaluator", "mesh", "model")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_threads_give_way_unless_the_user_wants_otherwise(name):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", LOOK, str(PROJECT_ROOT / f"tools/{name}.py")]
    for given in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        ran = subprocess.run(command, env=environment | given, capture_output=True, text=True)
        assert ran.stdout.split() == [given.get("OMP_WAIT_POLICY", "PASSIVE")], ran.stderr
