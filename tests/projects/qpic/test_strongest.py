import numpy as np
import pytest

from projects.qpic.strongest import strongest_interactions


def plainly(scores, labels, possible, limit):
    masked = [
        score * possible[labels[q]][v]
        for q, row in enumerate(scores)
        for v, score in enumerate(row)
    ]
    order = sorted(range(len(masked)), key=lambda cell: -masked[cell])[:limit]
    return order, [masked[cell] for cell in order]


@pytest.mark.parametrize("levels", [4, 1000])
@pytest.mark.parametrize("limit", [1, 7, 20, 60, 200])
@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_as_a_plain_stable_sort(levels, limit, part):
    rng = np.random.default_rng(limit)
    scores = (rng.integers(-1, levels, (12, 5)) / levels).astype(np.float32)
    labels = rng.integers(3, size=12)
    possible = rng.random((3, 5)) < part
    before = scores.copy()
    cells, chosen = strongest_interactions(scores, labels, possible, limit)
    expected_cells, expected = plainly(scores, labels, possible, limit)
    assert cells.tolist() == expected_cells
    assert chosen.tolist() == expected
    assert np.array_equal(scores, before)


def test_impossible_verbs_fill_up_with_score_0():
    scores = np.array([[0.5, 0.9], [0.7, 0.2]])
    possible = np.array([[True, False]])
    cells, chosen = strongest_interactions(scores, np.array([0, 0]), possible, 3)
    assert cells.tolist() == [2, 0, 1]
    assert chosen.tolist() == [0.7, 0.5, 0]


def test_no_pairs():
    nothing = np.zeros((0, 5)), np.zeros(0, int), np.ones((3, 5), bool), 100
    assert [len(values) for values in strongest_interactions(*nothing)] == [0, 0]
