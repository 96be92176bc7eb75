import subprocess
import sys

import pytest


@pytest.mark.slow
def test_without_its_extra_it_says_what_to_install():
    without = "import sys; sys.modules['omegaconf'] = None; import dropkey_core.engine"
    run = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
    last = run.stderr.splitlines()[-1]
    assert f"{sys.executable} lacks what dropkey_core.engine needs: " in last
    assert last.endswith("or pip install -e '.[train]'")


@pytest.mark.slow
def test_without_torch_it_says_which_python_lacks_it():
    without = "import sys; sys.modules['torch'] = None; import dropkey_core"
    run = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
    assert f"{sys.executable} has no torch, which dropkey_core needs" in run.stderr
