"""The site's pages: copied with what they link to, and no link that leads nowhere."""

import json

import pytest


@pytest.fixture
def site(load_script, tmp_path, monkeypatch):
    script = load_script("tools/build_site")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "PAGES", tmp_path / "output/pages")
    (tmp_path / "docs").mkdir()
    (tmp_path / "tools/launch").mkdir(parents=True)
    (tmp_path / "tools/launch/go.sh").write_text("echo go\n")
    return script


def test_pages_keep_their_places_and_files_of_code_become_pages(site, tmp_path):
    text = "[b](docs/b.md#c) [go](tools/launch/go.sh) [all](tools/launch) ![p](docs/p.png)\n"
    (tmp_path / "README.md").write_text(text + "```\n[not](a/link.py)\n```\n")
    (tmp_path / "docs/b.md").write_text("# B\n\n## C\n")
    (tmp_path / "docs/p.png").write_bytes(b"png")
    site.stage_pages()
    pages = tmp_path / "output/pages"
    staged = (pages / "README.md").read_text()
    assert "[b](docs/b.md#c) [go](tools/launch/go.sh.md)" in staged
    assert "[all](tools/launch/README.md) ![p](docs/p.png)" in staged
    assert "[not](a/link.py)" in staged
    assert "`````bash\necho go\n`````" in (pages / "tools/launch/go.sh.md").read_text()
    assert "* [go.sh](go.sh.md)" in (pages / "tools/launch/README.md").read_text()
    assert (pages / "docs/p.png").read_bytes() == b"png"


def test_a_link_to_nothing_ends_it(site, tmp_path):
    (tmp_path / "README.md").write_text("[gone](docs/gone.md)")
    with pytest.raises(SystemExit, match=r"README.md links to docs/gone.md"):
        site.stage_pages()


def test_a_notebook_is_a_page_with_its_outputs(site, tmp_path):
    picture = {"data": {"image/png": "cG5n"}, "output_type": "display_data"}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "[b](b.md)"]},
        {"cell_type": "code", "source": ["print(1)"], "outputs": [{"text": ["1\n"]}, picture]},
    ]
    (tmp_path / "docs/n.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "docs/b.md").write_text("[the notebook](n.ipynb)")
    site.stage_pages()
    pages = tmp_path / "output/pages/docs"
    assert "[the notebook](n.md)" in (pages / "b.md").read_text()
    text = (pages / "n.md").read_text()
    assert "# Title\n[b](b.md)" in text
    assert "```python\nprint(1)\n```\n\n```text\n1\n```" in text
    assert '<img src="n_1.png"' in text
    assert (pages / "n_1.png").read_bytes() == b"png"


def test_links_that_lead_nowhere_are_found(site, tmp_path):
    built = tmp_path / "site"
    (built / "a").mkdir(parents=True)
    good = '<a href="a/index.html#x"></a><a href="a/"></a><a href="https://elsewhere.org/x"></a>'
    bad = '<a href="a/index.html#y"></a><img src="gone.png">'
    (built / "index.html").write_text(good + bad)
    (built / "a/index.html").write_text('<h1 id="x">X</h1>')
    wrong = [line.split(": ")[1] for line in site.broken_links(built)]
    assert wrong == ["a/index.html#y", "gone.png"]
