"""Commands on the pages: scripts are there and take them; configs have these settings."""

import argparse
import contextlib
import importlib.util
import io
import os
import re
import shlex
import sys

import pytest

from dropkey_core.engine import UserError, load_config
from dropkey_core.engine.paths import PROJECT_ROOT
from tests.docs.all_pages import PAGES

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python |sbatch )?(?:tools|datasets|tests)/[^`]+)`")
SCRIPT = re.compile(r"(?:tools|datasets|tests)/[\w/]+\.(?:py|sh|sbatch)\b")
OPTION = re.compile(r"(?<=\s)--[a-z][\w-]*")
SETTING = re.compile(r"[a-z_0-9]+(?:\.[a-z_0-9]+)+=[^\s=].*")
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


def calls():
    """Scripts on the pages, and what they are called with."""
    for page in PAGES:
        for command in commands(page):
            if (script := SCRIPT.search(command)) and script[0] != DETECTRON2:
                words = re.split(r"\s[|>&;]", command[script.end() :].replace("...", ""))[0]
                yield page.name, script[0], words


def test_scripts_are_there():
    assert not [call for call in calls() if not (PROJECT_ROOT / call[1]).exists()]


class Parsed(Exception):
    """A command line is as its parser wants it."""


@pytest.fixture
def only_parse(monkeypatch):
    """Lets the main function of a script end as soon as its command line is read."""
    inside = []  # one way of reading calls another, and the parsers of subcommands

    def ending(read):
        def read_and_end(*arguments, **named):
            inside.append(read)
            try:
                result = read(*arguments, **named)
            finally:
                inside.pop()
            if inside:
                return result
            raise Parsed

        return read_and_end

    for name in ("parse_args", "parse_intermixed_args", "parse_known_args"):
        read = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, ending(read))

    def parse(script, words):
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        monkeypatch.syspath_prepend(str(script.parent))
        spec = importlib.util.spec_from_file_location(f"{script.stem}_of_a_page", script)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                module.main()
            except Parsed:
                return ""
            except SystemExit:
                return said.getvalue().strip().splitlines()[-1]
        return "does not read its command line"

    return parse


def test_scripts_take_the_commands(only_parse):
    """Options are spelt so, none is missing; a lone one in a text stands for itself."""
    wrong = {}
    for page, script, words in set(calls()):
        options = OPTION.findall(words)
        if not options or "--help" in options or not script.endswith(".py"):
            continue
        said = only_parse(PROJECT_ROOT / script, shlex.split(words))
        is_part = len(options) == 1 and ("required" in said or "expected" in said)
        if said and not is_part:
            wrong[f"{page}: {script}{words}"] = said
    assert not wrong


def test_scripts_that_are_called_by_name_may_be():
    lines = {line.split(" ")[0] for page in PAGES for line in commands(page) if " " in line}
    called = {word for word in lines if SCRIPT.fullmatch(word)} - {DETECTRON2}
    assert "tools/train_net.py" in called
    assert not {script for script in called if not os.access(PROJECT_ROOT / script, os.X_OK)}


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
