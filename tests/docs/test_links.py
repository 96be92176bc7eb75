"""Links between pages, as a repository browser follows them: files, folders and headings."""

import re
from urllib.parse import unquote

import pytest

from dropkey_core.engine.paths import PROJECT_ROOT
from tests.docs.all_pages import PAGES

FENCE = re.compile(r"^(`{3,}).*?^\1[ ]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


def text_of(page):
    return FENCE.sub("", page.read_text())


def anchors(page):
    """Of headings: lower case, without marks, blanks as hyphens."""
    headings = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", h) for h in HEADING.findall(text_of(page)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def wrong_links(page):
    for link in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        is_page = target.suffix == ".md" and target.exists()
        if not target.exists() or (anchor and is_page and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_links_lead_somewhere(page):
    assert list(wrong_links(page)) == []


def test_a_wrong_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](page.md#one-two) [b](page.md#three) [c](other.md)\n")
    assert list(wrong_links(page)) == ["page.md#three", "other.md"]
