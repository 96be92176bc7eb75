"""Readers of files from outside meet made-up files.

pytest tests/fuzz                                                          a few, always the same
pytest tests/fuzz --hypothesis-profile=fuzz --hypothesis-show-statistics   100,000 for each: hours
pytest tests/fuzz --hypothesis-profile=fuzz -k "coco or config" --hypothesis-seed=7

An input is a sound file with something changed. A reader may return a value that keeps its promises
(those are in ``targets.py``) or raise UserError with one short line that names the file. All else
fails: another exception or a warning, too much time or memory, another file opened, anything
written, started, fetched or run. Hypothesis then searches for the smallest such input and shows it;
it belongs to ``findings.py`` once the reader is mended.
"""

import contextlib
import encodings
import gc
import importlib
import logging
import pkgutil
import sys
import warnings
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import event, given, note
from hypothesis import strategies as st

from dropkey_core.engine.errors import LONGEST_MESSAGE, UserError
from tests.fuzz.findings import FINDINGS
from tests.fuzz.guard import Guard, Overstep
from tests.fuzz.pickle_inputs import TOUCHED
from tests.fuzz.targets import TARGETS, Target, prepare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="time and memory are bounded as Linux can"),
    pytest.mark.filterwarnings("ignore:Duplicate name"),  # of making zip archives
    pytest.mark.filterwarnings("ignore:Validating sparse"),  # of torch
]


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """Watches what is read in the current folder."""
    folder, threads = tmp_path_factory.mktemp("fuzz"), torch.get_num_threads()
    prepare(folder)
    gc.collect()
    gc.freeze()  # else what other tests left might be closed, or removed, while a reader is watched
    logging.disable()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DROPKEY_DATASETS", str(folder))
        patch.syspath_prepend(str(folder))  # for the targets that toy.yaml names
        for codec in pkgutil.iter_modules(encodings.__path__):
            with contextlib.suppress(ImportError):  # one of Windows
                importlib.import_module(f"encodings.{codec.name}")
        for target in TARGETS.values():  # what else is imported on first use
            target.write(folder / target.name, target.sound[0])
            target.read(folder / target.name)
        yield Guard(folder)
    torch.set_num_threads(threads)
    logging.disable(logging.NOTSET)
    gc.unfreeze()
    assert not TOUCHED.exists()


def outcome(target: Target, guard: Guard, data: bytes) -> str:
    """Return "accepted" or "refused"; raise what is wrong."""
    path = guard.folder / target.name
    target.write(path, data)
    try:
        with (
            warnings.catch_warnings(),
            guard.watch(target.seconds, target.megabytes, target.may_import),
        ):
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DeprecationWarning)  # which tells us, not users
            target.read(path)
    except UserError as error:
        check_message(error, guard.folder if target.names_file else None)
        return "refused"
    except Overstep as error:
        raise AssertionError(str(error)) from error
    return "accepted"


def check_message(error: UserError, folder: Path | None) -> None:
    """Require one short line, with the file where there is one to be named."""
    line = error.one_line()
    assert len(line) <= LONGEST_MESSAGE + len("...")
    assert line.isprintable()
    assert folder is None or str(folder) in line


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_made_up_file(guard, name, data):
    target = TARGETS[name]
    seed = data.draw(st.sampled_from(target.sound))
    content = target.mutate(seed, data.draw(st.randoms(use_true_random=False)))
    note(f"({name!r}, {content!r}),")
    event(outcome(target, guard, content))


@pytest.mark.parametrize(("name", "content"), FINDINGS)
def test_finding(guard, name, content):
    outcome(TARGETS[name], guard, content)


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_are_accepted_and_changed_ones_differ(guard, name):
    target = TARGETS[name]
    for seed in target.sound:
        assert outcome(target, guard, seed) == "accepted"
    changed = [target.mutate(seed, Random(n)) for n, seed in enumerate(target.sound * 10)]
    assert len({*changed, *target.sound}) > len(changed) / 2
    assert "refused" in {outcome(target, guard, content) for content in changed}
