import subprocess
import sys

import pytest


@pytest.mark.slow
def test_without_its_extra_it_says_what_to_install():
    without = "import sys; sys.modules['omegaconf'] = None; import dropkey_core.engine"
    run = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
    assert run.stderr.endswith("dropkey_core.engine needs: pip install 'dropkey[train]'\n")
