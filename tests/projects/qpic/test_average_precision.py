import numpy as np
import pytest

from projects.qpic.average_precision import EXACT_RECALLS, QPIC_RECALLS, eleven_point_ap

both = pytest.mark.parametrize("recalls", [EXACT_RECALLS, QPIC_RECALLS])


def ap(flags, num_truths, recalls):
    return eleven_point_ap(np.array([flag == "T" for flag in flags], bool), num_truths, recalls)


@both
@pytest.mark.parametrize(
    ("flags", "num_truths", "expected"),
    [
        ("T", 1, 1),
        ("TT", 2, 1),
        ("FT", 1, 1 / 2),  # precision 1/2 at all recalls
        ("T", 2, 6 / 11),  # precision 1 at 0, 0.1, ..., 0.5
        ("TF", 2, 6 / 11),  # what is wrong afterwards costs nothing
        # Precision 1, 2/3 and 3/5 at recalls 1/4, 2/4 and 3/4: 3, 3 and 2 of the eleven.
        ("TFTFT", 4, (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11),
        # Precision 1/3, then 2/4 at 2/2: the later one is better and counts everywhere.
        ("FFTT", 2, 1 / 2),
        ("FFF", 3, 0),
        ("", 3, 0),
    ],
)
def test_worked_out_by_hand(flags, num_truths, expected, recalls):
    assert ap(flags, num_truths, recalls) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("found", "exact", "qpics"), [(3, 4, 3), (6, 7, 6), (7, 8, 7), (5, 6, 6)])
def test_recalls_of_3_6_and_7_in_10_do_not_reach_qpics_recalls(found, exact, qpics):
    assert ap("T" * found, 10, EXACT_RECALLS) == pytest.approx(exact / 11, abs=1e-15)
    assert ap("T" * found, 10, QPIC_RECALLS) == pytest.approx(qpics / 11, abs=1e-15)
