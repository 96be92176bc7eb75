import importlib.util
import os
import shutil
import sys
from pathlib import Path

# Read when torch is imported. On a busy machine threads that spin while they wait take the cores
# from those that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # every core has a process of its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

TOY = Path(__file__).parent / "toy"
ROOT = Path(__file__).parents[1]
SMALL_MANNEQUIN = {"sizes": (1000, 300, 200), "cell": 0.0105, "rounds": 3}

# The same examples every time, unless --hypothesis-profile=fuzz looks for new ones.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.register_profile(
    "fuzz",
    max_examples=100_000,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def load_script():
    """Imports a script of tools/ or datasets/, which are no packages: "tools/train_net"."""

    def load(name):
        spec = importlib.util.spec_from_file_location(Path(name).name, ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where a script's own processes look for it
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def small_mannequin():
    """The mannequin with fewer vertices; four seconds."""
    from mannequin import make_mannequin

    return make_mannequin(**SMALL_MANNEQUIN)


@pytest.fixture
def toy_folder(tmp_path, monkeypatch):
    """An empty working folder with toy.yaml, whose targets can be imported."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.chdir(tmp_path)
    shutil.copy(TOY / "toy.yaml", tmp_path)
    return tmp_path
