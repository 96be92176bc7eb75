import errno
import os

import pytest

from dropkey_core.engine.progress import Progress


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_a_run_goes_on_when_its_messages_cannot_be_written(monkeypatch, number):
    class Broken:
        def write(self, text):
            raise OSError(number, os.strerror(number))

        def flush(self):
            pass

    turned = []
    monkeypatch.setattr(os, "dup2", lambda source, target: turned.append(target))
    progress = Progress()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Broken())
        progress.say("one")
        progress.say("two")
    assert turned == [1]  # what else is printed goes to nowhere, too


def test_terms_of_single_layers_are_not_printed(capsys):
    progress = Progress()
    progress.max_iter = 4
    progress.show(2, {"loss": 1.5, "loss_ce_0": 0.25, "loss_ce": 0.5})
    assert capsys.readouterr().out == "step 2/4  eta 0:00:00  loss 1.5  loss_ce 0.5\n"
