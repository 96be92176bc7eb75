"""The pages: all Markdown of the project."""

from dropkey_core.engine.paths import PROJECT_ROOT

GLOBS = ("*.md", "docs/**/*.md", "configs/*.md", "datasets/*.md", "dropkey_core/*.md")
PAGES = sorted({page for glob in (*GLOBS, "projects/*/*.md") for page in PROJECT_ROOT.glob(glob)})
