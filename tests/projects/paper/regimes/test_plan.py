import pytest

from dropkey_core.engine import UserError
from projects.paper.regimes import read_plan


def test_every_combination_once_and_the_baseline_without_ratios(plan):
    runs = plan.runs()
    assert len(runs) == len(set(runs)) == 2 * 2 * (1 + 2 * 2)  # seeds, sizes, treatments
    assert [run for run in runs if run.method == "none"] == [
        run for run in runs if run.treatment == ("none", 0.0, "-")
    ]


def test_seed_after_seed_whatever_the_grids(plan):
    plan.grids.append(plan.grids[0])
    runs = plan.runs()
    assert len(runs) == 20
    assert [run.seed for run in runs] == [0] * 10 + [1] * 10


def test_seeds_begin_where_the_grid_says(content, write_plan):
    content["grids"][0] |= {"first_seed": 100, "seeds": 3}
    assert {run.seed for run in read_plan(write_plan(content)).runs()} == {100, 101, 102}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": ["t2"]}, "no network 't2' in this plan; nearest is 't2t'"),
        ({"method": ["dropky"]}, "no method 'dropky' in this plan; nearest is 'dropkey'"),
        ({"augmentation": ["week"]}, "no augmentation 'week'"),
        ({"images": ["ten"]}, r"Expected `int`, got `str` - at `\$.grids\[0\].images"),
        ({"speed": 1}, "unknown field `speed`"),
    ],
)
def test_wrong_plan_is_refused(content, write_plan, change, message):
    content["grids"][0] |= change
    path = write_plan(content)
    with pytest.raises(UserError, match=message) as caught:
        read_plan(path)
    assert str(caught.value).startswith(f"{path}: ")
