"""Files are refused before the work whose result they are to hold."""

import pytest

from projects.paper.figures.outputs import check_outputs


def test_outputs_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot write .*file/a.json"):
        check_outputs(tmp_path / "file" / "a.json")
    with pytest.raises(ValueError, match=r"a.xyz must end in one of json, .*png"):
        check_outputs(tmp_path / "a.xyz")
