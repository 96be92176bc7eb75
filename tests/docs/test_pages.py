"""Blocks of Python on the pages run as printed, in the order of the page, and print what it says.

A block "text" right after a block of Python is what that prints; "..." stands for anything, and
numbers with four decimals may be off by a tenth, for some are drawn. What cannot run here has the
comment ``<!-- not run: REASON -->`` before it, and is compiled alone.
"""

import contextlib
import doctest
import io
import os
import re
import sys

import matplotlib
import pytest
import torch
from PIL import Image

from dropkey_core.engine.paths import PROJECT_ROOT
from projects.detr import build_model
from tests.docs.all_pages import PAGES

BLOCK = re.compile(
    r"(?P<comment><!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
EQUAL = doctest.OutputChecker().check_output
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NEEDS_WEIGHTS = 'from_pretrained("detr-r50")'
NUMBER = re.compile(r"\d+\.\d{4}\b")


def pages():
    for page in (page for page in PAGES if "```python" in page.read_text()):
        slow = [pytest.mark.slow] if NEEDS_WEIGHTS in page.read_text() else []
        yield pytest.param(page, id=str(page.relative_to(PROJECT_ROOT)), marks=slow)


def blocks(page):
    """Code, its first line in the page, what it prints if that is told, and whether it runs."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        yield "\n" * line + block["code"], block["printed"], block["reason"]


def is_printed(told, out):
    """Whether a page tells what a block printed."""
    before_dots = NUMBER.findall(told.split("...")[0])
    numbers = zip(map(float, before_dots), map(float, NUMBER.findall(out)), strict=False)
    are_near = all(number == pytest.approx(other, rel=0.1, abs=1e-3) for number, other in numbers)
    return are_near and EQUAL(NUMBER.sub("#", told), NUMBER.sub("#", out), LOOSELY)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """Where torch keeps what it fetched: a DETR under its published name, of random weights."""
    folder = tmp_path_factory.mktemp("downloads")
    (folder / "hub/checkpoints").mkdir(parents=True)
    model = build_model(num_classes=91, backbone="resnet50", pretrained_backbone=False)
    torch.save({"model": model.state_dict()}, folder / "hub/checkpoints/detr-r50-e632da11.pth")
    return folder


@pytest.fixture
def working_folder(page, tmp_path, monkeypatch, request):
    """An empty folder with a photo, in which a page's blocks may do what they like."""
    if NEEDS_WEIGHTS in page.read_text():
        monkeypatch.setenv("TORCH_HOME", str(request.getfixturevalue("downloads")))
        monkeypatch.setattr("dropkey_core.engine.published.sha256_of", lambda file: "e632da11")
        Image.new("RGB", (64, 48), "gray").save(tmp_path / "photo.jpg")
    if page.stem == "hf-trainer":
        # Of a checkout's folder datasets transformers thinks that it is the package.
        monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["page"])
    before, backend = dict(os.environ), matplotlib.get_backend()
    matplotlib.use("agg")
    yield
    matplotlib.use(backend)
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("page", pages())
def test_blocks_of_python(page, working_folder):
    torch.manual_seed(0)
    names = {"__name__": "page"}
    for code, printed, reason in blocks(page):
        compiled = compile(code, str(page), "exec")
        if reason is not None:
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compiled, names)
        assert printed is None or is_printed(printed, out.getvalue()), out.getvalue()


def test_what_is_printed_is_compared():
    assert is_printed("a  0.1000\n...\nb\n", "a 0.1004\nx 0.5000\ny\nb\n")
    assert not is_printed("a 0.1000\n...\nb\n", "a 0.1304\nx\nb\n")
    assert not is_printed("a 0.1000\n...\nb\n", "a 0.1000\nx\nc\n")
