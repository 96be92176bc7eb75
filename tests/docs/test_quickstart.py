"""The notebook's cells run one after the other, within their time; its file is small."""

import json
import time

import matplotlib
import matplotlib.pyplot as plt
import pytest

from dropkey_core.engine.paths import PROJECT_ROOT

NOTEBOOK = PROJECT_ROOT / "docs/quickstart.ipynb"


def cells():
    return json.loads(NOTEBOOK.read_text())["cells"]


@pytest.mark.slow
def test_cells_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    started, names = time.monotonic(), {"__name__": "notebook"}
    try:
        for number, cell in enumerate(cells()):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    finally:
        plt.close("all")
        matplotlib.use(backend)
    assert time.monotonic() - started < 300  # on one busy core
    assert names["accuracy"](names["models"]["DropKey 0.3"]) > 80
    assert "to the last bit" in capsys.readouterr().out


def test_it_is_small_and_has_its_outputs():
    assert NOTEBOOK.stat().st_size < 300_000
    outputs = [cell["outputs"] for cell in cells() if cell["cell_type"] == "code"]
    pictures = [o for output in outputs for o in output if "image/png" in o.get("data", {})]
    assert len(pictures) == 4
    assert all(o["output_type"] != "error" for output in outputs for o in output)
