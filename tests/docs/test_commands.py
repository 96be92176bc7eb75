"""Commands on the pages: scripts are there, with these options; configs have these settings."""

import contextlib
import os
import re
import shlex

import pytest

from dropkey_core.engine import UserError, load_config
from dropkey_core.engine.paths import PROJECT_ROOT
from tests.docs.all_pages import PAGES

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python |sbatch )?(?:tools|datasets|tests)/[^`]+)`")
SCRIPT = re.compile(r"(?:tools|datasets|tests)/[\w/]+\.(?:py|sh|sbatch)\b")
OPTION = re.compile(r"(?<=\s)--[a-z][\w-]*")
SETTING = re.compile(r"[a-z_0-9]+(?:\.[a-z_0-9]+)+=[^\s=].*")
# Options that one function gives to several scripts, by the files that have them.
SHARED = ("dropkey_core/engine/command.py", "datasets/generated_set.py")
DETECTRON2 = "tools/lazyconfig_train_net.py"  # its own


def commands(page):
    """Lines of a page's blocks, with what continues them, and commands in its text."""
    text = page.read_text()
    for language, block in FENCE.findall(text):
        if language not in ("", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            yield re.split(r"\s#", line)[0].strip()
    yield from INLINE.findall(text)


def scripts_and_options():
    for page in PAGES:
        for command in commands(page):
            if (script := SCRIPT.search(command)) and script[0] != DETECTRON2:
                yield page, script[0], OPTION.findall(command[script.end() :])


def test_scripts_are_there_and_have_the_options():
    missing = []
    for page, script, options in scripts_and_options():
        file = PROJECT_ROOT / script
        if not file.exists():
            missing.append(f"{page.name}: {script}")
            continue
        sources = [file, *(PROJECT_ROOT / shared for shared in SHARED)]
        sources += file.parent.glob("report.py")
        known = "".join(source.read_text() for source in sources if source.exists())
        missing += [f"{page.name}: {script} {o}" for o in options if not is_known(o, known)]
    assert not missing


def test_scripts_that_are_called_by_name_may_be():
    lines = {line.split(" ")[0] for page in PAGES for line in commands(page) if " " in line}
    called = {word for word in lines if SCRIPT.fullmatch(word)} - {DETECTRON2}
    assert "tools/train_net.py" in called
    assert not {script for script in called if not os.access(PROJECT_ROOT / script, os.X_OK)}


def is_known(option, sources):
    """Whether an option is named in a source, or made of a field of that name."""
    field = option[2:].replace("-", "_")
    return option == "--help" or f'"{option}"' in sources or f"    {field}: " in sources


def trainings():
    for page in PAGES:
        for command in commands(page):
            if "tools/train_net.py" in command and "--config projects/" in command:
                yield pytest.param(command, id=f"{page.parent.name}/{page.stem}: {command[:60]}")


@pytest.mark.parametrize("command", trainings())
def test_settings_are_those_of_the_config(command):
    words = shlex.split(command.replace("...", ""))
    config = words[words.index("--config") + 1]
    load_config(PROJECT_ROOT / config, [word for word in words if SETTING.fullmatch(word)])


RECIPES = [
    "projects/detr/dropkey.yaml",
    "projects/detr/small.yaml",
    "projects/classification/t2t.yaml",
    "projects/classification/deit.yaml",
    "projects/classification/cifar_scratch.yaml",
    "projects/qpic/dropkey.yaml",
    "projects/metro/dropkey.yaml",
]


def settings_in_text():
    """Settings that pages name in their text, such as train.accumulate=auto, once each."""
    found = {}
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+=[^`\n]+)`", FENCE.sub("", page.read_text())):
            for word in code.split():
                if SETTING.fullmatch(word) and not re.search(r"[A-Z]|\.\.\.$|[(,]$", word):
                    found.setdefault(word, page.name)
    return found


@pytest.mark.slow
def test_settings_in_the_text_are_those_of_a_config():
    unknown = {}
    for setting, page in settings_in_text().items():
        for recipe in RECIPES:
            with contextlib.suppress(UserError):
                load_config(PROJECT_ROOT / recipe, [setting])
                break
        else:
            unknown[setting] = page
    assert not unknown
