from types import SimpleNamespace

import pytest
from PIL import Image

from dropkey_core.engine import UserError
from dropkey_core.engine.files import image_headers
from dropkey_core.engine.files.image_headers import Header, read_headers


def write(path, size, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)
    return str(path)


@pytest.mark.parametrize("is_slow", [True, False])
def test_headers_of_many_come_in_order_with_what_is_wrong(tmp_path, monkeypatch, is_slow):
    """Also where the first ones take so long that several are opened at once."""
    monkeypatch.setattr(image_headers, "FEW", 2)
    clock = SimpleNamespace(perf_counter=iter([0, 1 if is_slow else 1e-6]).__next__)
    monkeypatch.setattr(image_headers, "time", clock)
    paths = [write(tmp_path / f"{n}.jpg", (n + 1, 5), 6 if n == 3 else 1) for n in range(9)]
    (tmp_path / "7.jpg").write_text("no image")
    headers = read_headers(paths)
    assert headers[:7] == [Header((5, n + 1), 6 if n == 3 else 1) for n in range(7)]
    assert isinstance(headers[7], UserError) and str(headers[7]).startswith(paths[7])
    assert headers[8].stored == (5, 9)
    assert headers[3].upright == (4, 5)


def test_no_images_have_no_headers():
    assert read_headers([]) == []
