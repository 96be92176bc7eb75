import multiprocessing
from dataclasses import replace

import pytest

from dropkey_core.engine import UserError
from projects.paper.regimes import Results


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "toys.csv")


def test_reads_what_it_wrote(results, run, finished):
    assert results.read() == {}
    rows = [finished(run), finished(replace(run, seed=1), top1=100 / 3)]
    for row in rows:
        results.append(row)
    read = results.read()
    assert read[run] == rows[0]
    assert read[replace(run, seed=1)].numbers["test_top1"] == 33.3333
    assert results.path.read_text().count("\n") == 3


def test_half_written_row_is_no_row_and_goes(results, run, finished):
    results.append(finished(run))
    whole = results.path.read_bytes()
    results.path.write_bytes(whole + whole.splitlines()[1][:30])
    assert list(results.read()) == [run]
    results.append(finished(replace(run, seed=1)))
    assert list(results.read()) == [run, replace(run, seed=1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("ratio", "part"), "must have the columns data, network"),
        (lambda text: text.replace(",0.5,", ",half,"), "has a row that cannot be read: could not"),
        (lambda text: text.replace(",2\n", "\n"), "has a row that cannot be read"),
    ],
)
def test_other_file_is_refused(results, run, finished, change, message):
    results.append(finished(run))
    results.path.write_text(change(results.path.read_text()))
    with pytest.raises(UserError, match=message):
        results.read()


def test_other_measures_are_refused(results, run, finished):
    results.append(finished(run))
    more = finished(replace(run, seed=1))
    more = replace(more, numbers={**more.numbers, "entropy": 2.0})
    with pytest.raises(UserError, match=r"toys.csv has rows with other measures: name another"):
        results.append(more)
    assert list(results.read()) == [run]


def claims(path, run):
    with Results(path).claim(run) as held:
        return held


@pytest.mark.slow
def test_one_process_holds_a_run(results, run):
    """Another process gets other runs, and this one when it is let go."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with results.claim(run) as held:
            assert held
            assert not pool.apply(claims, (results.path, run))
            assert pool.apply(claims, (results.path, replace(run, seed=1)))
        assert pool.apply(claims, (results.path, run))
