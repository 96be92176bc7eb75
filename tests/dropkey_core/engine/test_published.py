import hashlib
from urllib.error import URLError

import pytest
import torch

from dropkey_core.engine import UserError
from dropkey_core.engine.published import PublishedWeights

STATE = {"weight": torch.arange(6.0).view(2, 3)}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A publisher whose files are written by ``torch.save``; lists what was asked for."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def download(url, file, hash_prefix, progress):
        asked.append((url, hash_prefix))
        torch.save({"model": STATE}, file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


def published(**settings):
    words = {"config": "", "licence": "", "metric": "", "source": "a page", **settings}
    return PublishedWeights(**{"url": "https://x.org/w.pth", **words})


def test_fetched_once_and_kept(hub, tmp_path):
    file = published().fetch()
    assert file == tmp_path / "hub" / "checkpoints" / "w.pth"
    assert published().fetch() == file
    assert hub == [("https://x.org/w.pth", None)]


def test_what_is_kept_is_checked(hub, tmp_path):
    file = published().fetch()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert published(sha256=digest[:8]).fetch() == file
    assert published(sha256=digest).fetch() == file
    other = "0" * 8
    message = rf"w\.pth is not the file of https://x\.org/w\.pth: its SHA-256 begins {digest[:8]},"
    with pytest.raises(UserError, match=f"{message} not {other}; delete it"):
        published(sha256=other).fetch()
    file.unlink()
    published(sha256=digest).fetch()
    assert hub[-1] == ("https://x.org/w.pth", digest)


def test_offline_says_where_the_file_belongs(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def download(*args, **settings):
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError) as told:
        published(notes="ask them").fetch()
    assert str(told.value) == (
        "cannot fetch the checkpoint https://x.org/w.pth (from a page): <urlopen error no route>; "
        f"fetched elsewhere it belongs at {tmp_path}/hub/checkpoints/w.pth; ask them"
    )
    with pytest.raises(UserError, match="no address to fetch them from: ask them"):
        published(url="", notes="ask them").fetch()


def test_what_others_wrote_is_converted(hub):
    torch.testing.assert_close(published().read(published().fetch())["model"], STATE)

    def convert(content):
        return {"ours": content["model"]["weight"] + 1}

    expected = {"model": {"ours": STATE["weight"] + 1}}
    weights = published(convert=convert)
    torch.testing.assert_close(weights.read(weights.fetch()), expected)
