#!/usr/bin/env python
"""Build the documentation site from the project's own Markdown files, and check every link in it.

tools/build_site.py                    # output/site/index.html, which opens without a server
tools/build_site.py --serve            # http://localhost:8000, built anew when a file changes

The pages lie where they belong: README.md of each folder, docs/. Links between them are those that
a repository browser follows. For the site they are copied to output/pages in the same places, so
that the links stay right, with what they link to: pictures as they are, other files as pages of
code, folders as lists. Equations (blocks "math", $`inline`$) become drawings, the notebook a page.
"""

import argparse
import base64
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "output" / "pages", ROOT / "output" / "site"
SOURCES = (
    "*.md",
    "configs/*.md",
    "datasets/*.md",
    "docs/**/*.md",
    "docs/*.css",
    "docs/*.js",
    "docs/*.ipynb",
    "dropkey_core/*.md",
    "projects/*/*.md",
)
KEPT = {".png", ".jpg", ".svg", ".gif", ".css", ".js"}  # as they are
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".sbatch": "bash"}

FENCE = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1[ ]*$\n?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
INLINE_MATH = re.compile(r"\$`([^`]+)`\$")


def sources() -> list[Path]:
    """Files that become pages, relative to the repository."""
    return sorted({path.relative_to(ROOT) for glob in SOURCES for path in ROOT.glob(glob)})


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change what stands outside of fenced blocks; blocks "math" become drawings."""
    parts, end = [], 0
    for block in FENCE.finditer(text):
        parts.append(change(text[end : block.start()]))
        is_math = block[2] == "math"
        parts.append(f"\n{equation(block[3])}\n\n" if is_math else block[0])
        end = block.end()
    return "".join([*parts, change(text[end:])])


def equation(latex: str, inline: bool = False) -> str:
    """LaTeX as a drawing in the colour of the text around it."""
    import ziamath  # of the extra docs; nothing else here needs it

    latex = " ".join(latex.split())
    drawn = ziamath.Latex(latex, size=17 if inline else 19, color="currentColor", inline=inline)
    label = latex.replace('"', "").replace("<", "&lt;")
    depth = f' style="vertical-align: {drawn.getyofst():.2f}px"' if inline else ""
    drawing = drawn.svg().replace("<svg ", f'<svg role="img" aria-label="{label}"{depth} ', 1)
    return drawing if inline else f'<div class="equation">{drawing}</div>'


def staged_name(path: Path) -> Path:
    """Where a file or folder of the repository is on the site, relative to ``PAGES``."""
    if (ROOT / path).is_dir():
        return path / "README.md"
    if path.suffix == ".ipynb":
        return path.with_suffix(".md")
    is_kept = path.suffix == ".md" or path.suffix in KEPT
    return path if is_kept else path.with_name(path.name + ".md")


def stage_pages() -> None:
    """Write ``PAGES``: all pages, and what they link to."""
    waiting, done = sources(), set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        target = PAGES / staged_name(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in KEPT:
            if not target.exists() or target.read_bytes() != (ROOT / path).read_bytes():
                shutil.copyfile(ROOT / path, target)
            continue
        text, links = page_text(path)
        if not target.exists() or target.read_text() != text:  # a server looks at the times
            target.write_text(text)
        waiting += links


def page_text(path: Path) -> tuple[str, list[Path]]:
    """Markdown of a page for the site, and the files and folders that it links to."""
    file = ROOT / path
    if file.is_dir() and (file / "README.md").exists():
        path, file = path / "README.md", file / "README.md"
    if file.is_dir():
        text = folder_page(file)
    elif path.suffix == ".ipynb":
        text = notebook_page(path)
    elif path.suffix == ".md":
        text = file.read_text()
    else:
        return code_page(file), []
    linked: list[Path] = []
    folder = file if file.is_dir() else file.parent

    def link(match: re.Match[str]) -> str:
        found = (folder / unquote(match[0])).resolve()
        if not found.exists() or not found.is_relative_to(ROOT):
            raise SystemExit(f"error: {path} links to {match[0]}, which is not there")
        relative = found.relative_to(ROOT)
        linked.append(relative)
        name = staged_name(relative).name
        return f"{match[0].rstrip('/')}/{name}" if found.is_dir() else _renamed(match[0], name)

    def change(part: str) -> str:
        part = INLINE_MATH.sub(lambda match: equation(match[1], inline=True), part)
        return LINK.sub(link, part)

    return outside_code(text, change), linked


def code_page(file: Path) -> str:
    """Make a page of a file of code, out of the search."""
    language = LANGUAGES.get(file.suffix, "text")
    header = f"---\nsearch:\n  exclude: true\n---\n\n# {file.relative_to(ROOT)}\n\n"
    return f"{header}`````{language}\n{file.read_text().rstrip()}\n`````\n"


def folder_page(folder: Path) -> str:
    """List the files of a folder."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    return "\n".join([f"# {folder.relative_to(ROOT)}", "", *(f"* [{n}]({n})" for n in files), ""])


def notebook_page(path: Path) -> str:
    """Make a page of a notebook with its outputs; pictures are written beside it."""
    parts = []
    for number, cell in enumerate(json.loads((ROOT / path).read_text())["cells"]):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            parts.append(_output(output, PAGES / path.with_suffix(""), number))
    parts.insert(1, f"*This is a notebook: `{path}`, to be run in Jupyter.*")
    return "\n\n".join(parts) + "\n"


def _output(output: dict, stem: Path, number: int) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        picture = stem.with_name(f"{stem.name}_{number}.png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(base64.b64decode(data["image/png"]))
        return f'<img src="{picture.name}" alt="what the cell above draws">'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def _renamed(link: str, name: str) -> str:
    return link[: -len(link.rsplit("/", 1)[-1])] + name


class _Page(HTMLParser):
    """Links and anchors of a page of HTML."""

    def __init__(self, text: str):
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect, see the class."""
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.add(value)
            elif value and name in ("id", "name"):
                self.anchors.add(value)


def broken_links(site: Path) -> Iterator[str]:
    """Yield "page: link" for each link in a folder of HTML that leads nowhere in it."""
    pages = {path.resolve(): _Page(path.read_text()) for path in site.rglob("*.html")}
    for path, page in pages.items():
        if path.name == "404.html":  # its links are for the root of a server
            continue
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchors = pages[target].anchors if target in pages else set()
            is_wrong = not target.exists() or (parts.fragment and parts.fragment not in anchors)
            if is_wrong and not parts.fragment.startswith("__"):  # the theme's own switches
                yield f"{path.relative_to(site.resolve())}: {link}"


def build() -> int:
    """Build the site; return an exit code."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    stage_pages()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        return code
    broken = list(broken_links(SITE))
    for line in broken:
        print(f"error: a link that leads nowhere: {line}", file=sys.stderr)
    if not broken:
        print(f"{sum(1 for _ in SITE.rglob('*.html'))} pages, links checked: {SITE}/index.html")
    return 2 if broken else 0


def serve() -> None:
    """Serve the site until Ctrl-C, and copy pages that change."""
    stage_pages()
    server = subprocess.Popen([sys.executable, "-m", "zensical", "serve"], cwd=ROOT)
    try:
        while server.poll() is None:
            time.sleep(1)
            try:
                stage_pages()
            except SystemExit as error:  # a link that is half written
                print(error, file=sys.stderr)
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()


def main() -> int:
    """Read the command line; return an exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", action="store_true", help="show it while pages are written")
    arguments = parser.parse_args()
    if not find_spec("zensical"):
        raise SystemExit("error: no zensical: Python 3.11 or newer, and pip install -e '.[docs]'")
    if arguments.serve:
        serve()
        return 0
    return build()


if __name__ == "__main__":
    sys.exit(main())
