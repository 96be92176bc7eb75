from dataclasses import replace

import pytest

from dropkey_core.engine import UserError
from projects.paper.regimes import write_report
from projects.paper.regimes.comparison import compare, judge_claim, paired_difference, verdict
from projects.paper.regimes.plan import Claim


def test_interval_of_equal_differences_is_that_number():
    difference = paired_difference([1.5, 1.5, 1.5])
    assert (difference.mean, difference.low, difference.high) == (1.5, 1.5, 1.5)
    assert difference.excludes_zero


def test_interval_is_students_t():
    """Of n = 4: t(0.975, 3) = 3.182 times the standard error, sqrt(20 / 3) / 2."""
    difference = paired_difference([-2.0, 0.0, 2.0, 4.0])
    half = 3.18245 * (20 / 3) ** 0.5 / 2
    assert difference.mean == 1.0
    assert difference.low == pytest.approx(1 - half, abs=1e-4)
    assert difference.high == pytest.approx(1 + half, abs=1e-4)
    assert not difference.excludes_zero


def test_one_seed_has_no_interval():
    assert not paired_difference([5.0]).excludes_zero
    assert paired_difference([5.0]).text(1) == "+5.0 [-]"


@pytest.fixture
def rows(run, finished):
    """Two seeds of the baseline and of a treatment, a third of the treatment alone."""
    none = replace(run, method="none", ratio=0.0, schedule="-")
    tops = [(none, 0, 50.0), (none, 1, 60.0), (run, 0, 53.0), (run, 1, 61.0), (run, 2, 99.0)]
    return [finished(replace(cell, seed=seed), top1) for cell, seed, top1 in tops]


def test_pairs_by_seed(rows, run):
    (comparison,) = compare(rows, ["test_top1"])
    assert comparison.regime == run.regime
    assert comparison.treatment == ("dropkey", 0.5, "constant")
    assert comparison.without["test_top1"] == 55.0
    difference = comparison.differences["test_top1"]
    assert (difference.mean, difference.seeds) == (2.0, 2)
    half = 12.7062  # t(0.975, 1); the standard error is 1
    assert (difference.low, difference.high) == pytest.approx((2 - half, 2 + half), abs=1e-3)


def test_other_regimes_are_not_mixed(rows):
    moved = [
        replace(row, run=replace(row.run, steps=9)) for row in rows if row.run.method == "none"
    ]
    assert compare([*moved, *rows[2:]], ["test_top1"]) == []


def claim(expected="more", **changes):
    sides = {"of": {"method": "dropkey"}, "than": {"method": "dropout"}}
    return Claim("keys beat weights", expected, "test_top1", **(sides | changes))


@pytest.fixture
def sides(run, finished):
    """DropKey against dropout: two sizes of two seeds, and one of DropKey alone."""
    cells = [(2, 0, 60.0, 50.0), (3, 0, 62.0, 60.0), (2, 1, 55.0, 50.0), (3, 1, 55.0, 54.0)]
    rows = [finished(replace(run, images=4), 99.0)]
    for images, seed, *tops in cells:
        for method, top1 in zip(("dropkey", "dropout"), tops, strict=True):
            cell = replace(run, images=images, seed=seed, method=method)
            rows.append(finished(cell, top1))
    return rows


def test_claim_is_held_against_pairs_equal_in_all_else(sides):
    """Seed 0: the mean of 10 and 2; seed 1: of 5 and 1."""
    judged = judge_claim(claim(), sides)
    assert (judged.of, judged.than) == (58.0, 53.5)
    assert (judged.difference.mean, judged.difference.seeds) == (4.5, 2)
    assert verdict(claim(), judged.difference) == "cannot tell"  # of two seeds
    assert verdict(claim(), paired_difference([6.0, 3.0, 4.0])) == "agrees"
    assert verdict(claim("less"), paired_difference([6.0, 3.0, 4.0])) == "disagrees"
    assert verdict(claim(), paired_difference([-1.0, 1.0])) == "cannot tell"
    assert judge_claim(claim(of={"method": "absent"}), sides) is None


def test_claim_about_two_columns_of_one_run(sides):
    judged = judge_claim(claim(of={}, than={}, than_metric="test_ece"), sides[1:])
    mean = (60 + 50 + 62 + 60 + 55 + 50 + 55 + 54) / 8
    assert (judged.of, judged.than, judged.difference.mean) == (mean, 12.5, mean - 12.5)


def test_claims_need_no_baseline(plan, sides, tmp_path):
    """Such as options of a network against each other."""
    plan.claims.append(claim())
    table = write_report(plan, sides, tmp_path)
    assert "| more | 2 | 58.00 | 53.50 | +4.50 [" in table.read_text()
    assert not table.with_suffix(".png").exists()


def test_claim_without_runs_stands_beside_the_others(plan, sides, tmp_path):
    plan.claims += [claim(), claim(of={"method": "absent"})]
    text = write_report(plan, sides, tmp_path).read_text()
    assert "| keys beat weights | test_top1 | more | 0 | - | - | - | - |" in text


def test_metric_that_the_rows_lack_is_told(plan, rows, tmp_path):
    plan.metrics["test_top5"] = plan.metrics["test_top1"]
    message = r"toys.yaml: its rows have no metric test_top5, only train_top1, train_loss, test"
    with pytest.raises(UserError, match=message):
        write_report(plan, rows, tmp_path)


def test_writes_table_and_figure(plan, rows, tmp_path):
    with pytest.raises(UserError, match=r"no finished pair of runs of .*toys.yaml"):
        write_report(plan, [], tmp_path)
    sides = {"of": {"method": "dropkey", "ratio": 0.5, "schedule": "constant"}}
    sides |= {"than": {"method": "none", "ratio": 0.0, "schedule": "-"}}
    plan.claims.append(claim(**sides))
    table = write_report(plan, rows, tmp_path / "report")
    assert table == tmp_path / "report/toys.md"
    text = table.read_text()
    assert "5 runs, 1 x 3 = 3 comparisons, 3 of them with more than one seed. 0 intervals" in text
    assert "| t2t | usual | 3 | 2 | DropKey | 0.5 | constant | 2 |" in text
    assert "| 100.0 | 100.0 | 55.0 | +2.0 [-10.7, +14.7] | 1.500 | +0.000 [" in text
    assert "| more | 2 | 57.00 | 55.00 | +2.00 [-10.71, +14.71] | cannot" in text
    assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
