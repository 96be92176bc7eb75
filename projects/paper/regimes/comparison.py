"""Paired comparisons of finished runs: mean differences over seeds with confidence intervals."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from projects.paper.regimes.plan import BASELINE, Claim
from projects.paper.regimes.results import Finished

FIT = "train_top1"  # told beside the differences, where a plan's rows have it


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of a paired difference, treated minus untreated.

    Attributes:
        mean: over seeds.
        low: lower end of its 95 % interval; nan of a single seed.
        high: upper end.
        seeds: how many.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int) -> str:
        """The mean and, in brackets, the interval; a dash for that of one seed."""
        if self.seeds < 2:
            return f"{self.mean:+.{digits}f} [-]"
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


@dataclass(frozen=True)
class Comparison:
    """A method, ratio and schedule against nothing dropped, in one regime.

    Attributes:
        regime: data, network, images, augmentation, steps.
        treatment: method, ratio, schedule.
        without: means without dropping, by metric.
        treated: means with it.
        differences: by metric.
    """

    regime: tuple[Any, ...]
    treatment: tuple[Any, ...]
    without: dict[str, float]
    treated: dict[str, float]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Judged:
    """A claim held against finished runs.

    Attributes:
        of: mean of the metric over the runs of the first kind that have a partner.
        than: of their partners.
        difference: of the pairs, a seed counts once.
    """

    of: float
    than: float
    difference: Difference


def paired_difference(differences: Sequence[float] | NDArray[np.float64]) -> Difference:
    """Mean of differences, one for each seed, with Student's t interval.

    Of so few seeds a percentile bootstrap's is too narrow: with no effect at all it leaves out 0 in
    a fifth of all cases of 4 seeds, and in a tenth of 12.
    """
    values = np.asarray(differences)
    low = high = float("nan")
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        low, high = float(values.mean() - half), float(values.mean() + half)
    return Difference(float(values.mean()), low, high, len(values))


def compare(rows: Iterable[Finished], metrics: Sequence[str]) -> list[Comparison]:
    """All comparisons by those metrics that finished runs allow, those of one panel together."""
    cells: dict[Any, dict[int, Finished]] = defaultdict(dict)
    for row in rows:
        cells[row.run.regime, row.run.treatment][row.run.seed] = row
    found = []
    for (regime, treatment), treated in sorted(cells.items()):
        without = cells.get((regime, (BASELINE, 0.0, "-")), {})
        seeds = sorted(treated.keys() & without.keys())
        if treatment[0] == BASELINE or not seeds:
            continue
        pairs = [[cell[s].numbers for s in seeds] for cell in (without, treated)]
        values = {
            name: np.array([[numbers[name] for numbers in side] for side in pairs])
            for name in pairs[0][0].keys() & {*metrics, FIT}
        }
        before, after = ({name: float(v[i].mean()) for name, v in values.items()} for i in (0, 1))
        differences = {
            name: paired_difference(values[name][1] - values[name][0]) for name in metrics
        }
        found.append(Comparison(regime, treatment, before, after, differences))
    return sorted(found, key=lambda c: (*c.regime[:2], *c.regime[3:], c.treatment[2], c.regime[2]))


def judge_claim(claim: Claim, rows: Iterable[Finished]) -> Judged | None:
    """What the first kind of runs has and what the second; None if no pair is finished.

    Pairs are equal in all that the claim does not name. A seed counts once, with the mean of its
    pairs.
    """
    sides: list[dict[Any, float]] = [{}, {}]
    metrics = claim.metric, claim.than_metric or claim.metric
    for row in rows:
        run, numbers = asdict(row.run), row.numbers
        for side, wanted, metric in zip(sides, (claim.of, claim.than), metrics, strict=True):
            if wanted.items() <= run.items() and metric in numbers:
                rest = {name: value for name, value in run.items() if name not in wanted}
                side[tuple(rest.items())] = numbers[metric]
    by_seed: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for key in sides[0].keys() & sides[1].keys():
        if not np.isnan(sum(pair := (sides[0][key], sides[1][key]))):
            by_seed[dict(key)["seed"]].append(pair)
    if not by_seed:
        return None
    means = np.array([np.mean(by_seed[seed], axis=0) for seed in sorted(by_seed)])
    of, than = means.T
    return Judged(float(of.mean()), float(than.mean()), paired_difference(of - than))


def verdict(claim: Claim, difference: Difference) -> str:
    """Whether ours is as expected; it cannot tell if the interval holds 0."""
    if not difference.excludes_zero:
        return "cannot tell"
    return "agrees" if (difference.mean > 0) == (claim.expected == "more") else "disagrees"
