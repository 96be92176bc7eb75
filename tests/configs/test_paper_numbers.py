"""Every number of the paper in ``configs/paper``, against its tables in the paper's own layout."""

import pytest

from dropkey_core.engine.paths import PROJECT_ROOT
from projects.paper.tables import Plan, read_table
from projects.paper.tables.report import summarise

FOLDER = PROJECT_ROOT / "configs/paper"
TOP1 = "cls/top1"

# arXiv 2208.02646: rows and columns as printed; "-" where the paper has no number.
TABLE_1 = """
    T2T-14 dropout  | 96.7 | 96.9 | 97.2 | 77.0 | 77.8 | 78.4
    T2T-14 DropKey  | 97.0 | 97.4 | 97.6 | 77.2 | 78.6 | 79.2
    T2T-19 dropout  | 96.6 | 97.1 | 97.4 | 77.3 | 78.1 | 78.5
    T2T-19 DropKey  | 97.1 | 97.2 | 97.9 | 78.0 | 78.4 | 80.1
    T2T-24 dropout  | 96.4 | 97.0 | 97.5 | 76.7 | 77.3 | 78.2
    T2T-24 DropKey  | 96.6 | 97.2 | 97.7 | 76.9 | 78.3 | 79.3
    VOLO-d1 dropout | 95.8 | 96.4 | 96.6 | 77.3 | 78.2 | 79.0
    VOLO-d1 DropKey | 96.2 | 96.7 | 97.1 | 78.1 | 78.6 | 79.6
    VOLO-d2 dropout | 95.6 | 96.1 | 96.4 | 77.0 | 78.4 | 79.0
    VOLO-d2 DropKey | 95.7 | 96.6 | 97.0 | 77.7 | 79.0 | 79.9
    VOLO-d3 dropout | 96.0 | 96.3 | 96.6 | 77.1 | 77.9 | 78.5
    VOLO-d3 DropKey | 96.2 | 96.4 | 96.9 | 77.4 | 78.1 | 78.7
"""
TABLE_2 = """
    T2T-14 dropout  | 78.4 | 78.1 | 77.1 | 77.9 | 76.8
    T2T-14 DropKey  | 79.2 | 78.7 | 77.5 | 78.6 | 77.4
    VOLO-d1 dropout | 78.6 | 78.0 | 76.7 | 77.6 | 76.4
    VOLO-d1 DropKey | 79.2 | 78.5 | 77.5 | 78.3 | 77.1
"""
TABLE_3 = """
    T2T-19 plain   | 78.4 | 77.6 | 75.6 | 73.1 | 65.1 | 28.2
    T2T-19 dropout | 78.5 | 77.4 | 76.5 | 73.9 | 66.0 | 30.2
    T2T-19 DropKey | 80.1 | 79.4 | 78.2 | 75.8 | 68.7 | 32.7
    T2T-24 plain   | 77.8 | 77.1 | 75.2 | 72.7 | 63.5 | 23.7
    T2T-24 dropout | 78.2 | 77.3 | 75.7 | 72.8 | 65.3 | 27.9
    T2T-24 DropKey | 79.3 | 78.6 | 78.0 | 74.3 | 66.9 | 29.7
"""
TABLE_4 = """
    T2T-14 dropout | 78.4 | -    | -    | 78.4
    T2T-14 DropKey | 78.8 | 78.9 | 79.1 | 79.2
    T2T-19 dropout | 78.5 | -    | -    | 78.6
    T2T-19 DropKey | 79.3 | 79.5 | 80.2 | 80.1
"""
TABLE_5 = """
    T2T-14  | 81.76 ± 0.05 | 81.65 ± 0.04 | 81.53 ± 0.08 | 82.04 ± 0.14 | 81.93 ± 0.09
    T2T-19  | 82.56 ± 0.09 | 82.63 ± 0.05 | 82.68 ± 0.04 | 82.71 ± 0.02 | 82.94 ± 0.04
    VOLO-d1 | 84.27 ± 0.12 | 84.35 ± 0.11 | 84.31 ± 0.04 | 84.53 ± 0.03 | 84.39 ± 0.02
    VOLO-d2 | 85.24 ± 0.05 | 85.22 ± 0.08 | 85.21 ± 0.03 | 85.33 ± 0.12 | 85.38 ± 0.06
"""
# The CVPR version's, second-hand.
TABLE_5_OF_CVPR = """
    DeiT-B | 81.91 | 82.25
    CeiT-T | 81.90 | 82.27
"""
TABLE_6 = """
    plain   | 41.9 | 62.1 | 44.2 | 20.6 | 45.7 | 60.7
    dropout | 42.2 | 62.3 | 44.3 | 20.8 | 45.9 | 61.1
    DropKey | 42.9 | 63.4 | 44.7 | 21.1 | 46.7 | 61.8
"""
TABLE_7 = """
    plain   | 57.8 | 51.5 | 39.9
    dropout | 57.9 | 51.6 | 39.7
    DropKey | 57.1 | 51.0 | 39.5
"""
TABLE_8 = """
    dropout 0.1 | 29.96 | 24.03 | 31.63 | 32.42 | 26.01 | 34.31
    dropout 0.3 | 30.02 | 24.17 | 31.72 | 32.49 | 26.13 | 34.41
    DropKey     | 30.87 | 24.63 | 32.24 | 33.21 | 26.66 | 34.94
"""
IDS = {"T2T-14": "t2t14", "T2T-19": "t2t19", "T2T-24": "t2t24"}
IDS |= {"VOLO-d1": "volod1", "VOLO-d2": "volod2", "VOLO-d3": "volod3"}
IDS |= {"DeiT-B": "deit_b", "CeiT-T": "ceit_t"}


def cells(text):
    """(words of the row's name, number of the column, text of the cell) of all cells."""
    for line in text.strip().splitlines():
        name, *row = (part.strip() for part in line.split("|"))
        for column, cell in enumerate(row):
            if cell != "-":
                yield name.split(), column, cell


def by_row(text, row_of, columns):
    """Numbers in an own row each: a network, a method, and what the column stands for."""
    found = {}
    for (network, *method), column, cell in cells(text):
        words = [IDS[network], *(word.lower() for word in method)]
        found[row_of(words, columns[column]), TOP1] = cell
    return found


def by_metric(text, rows, metrics):
    """Numbers of one run in one row; ``rows`` has the ids of a name."""
    return {
        (row, metrics[column]): cell
        for name, column, cell in cells(text)
        for row in rows[" ".join(name)]
    }


def joined(words, column):
    return "_".join([*words, column])


def with_data(words, column):
    data, schedule = column
    return "_".join([data, *words, schedule])


SCHEDULES = [(data, s) for data in ("c10", "c100") for s in ("rising", "constant", "falling")]
RATIOS = ["plain", "dropout_0.05", "dropout_0.1", "dropkey_0.05", "dropkey_0.1"]
ALIGNED = ["pure", "monte_carlo_2000", "monte_carlo_6000", "finetuned"]
PLAIN = ["none", "published"]  # which of the two the paper's is, it does not say
FINETUNED = ["dropkey_finetuned"]
THREE = {"plain": PLAIN, "dropout": ["dropout"], "DropKey": FINETUNED}
FOUR = {"dropout 0.1": ["dropout_0.1"], "dropout 0.3": ["dropout"], "DropKey": FINETUNED}
OCCLUDED = [f"occluded_{percent}/{TOP1}" for percent in (0, 10, 30, 50, 70, 90)]
NETWORKS_OF_3 = {
    f"{net} {method}": [f"{IDS[net]}_{method.lower()}"]
    for net in ("T2T-19", "T2T-24")
    for method in ("plain", "dropout", "DropKey")
}
PAPER = {
    "table1": by_row(TABLE_1, with_data, SCHEDULES),
    "table2": by_row(TABLE_2, joined, ["key", "block3", "block5", "cross1", "cross3"]),
    "table3": by_metric(TABLE_3, NETWORKS_OF_3, OCCLUDED),
    "table4": by_row(TABLE_4, joined, ALIGNED),
    "table5": by_row(TABLE_5, joined, RATIOS)
    | by_row(TABLE_5_OF_CVPR, joined, ["dropout", "dropkey"]),
    "table6": by_metric(
        TABLE_6, THREE, [f"bbox/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
    ),
    "table7": by_metric(TABLE_7, THREE, ["mesh/MPVE", "mesh/MPJPE", "mesh/PA-MPJPE"]),
    "table8": by_metric(
        TABLE_8,
        FOUR,
        [
            f"{setting}/mAP_{part}"
            for setting in ("hoi", "hoi_known_object")
            for part in ("full", "rare", "non_rare")
        ],
    ),
    "figure3": {("c100_t2t14_0.3", TOP1): "79.2"},
}


@pytest.mark.parametrize("name", PAPER)
def test_every_number_is_the_papers(name, tmp_path):
    """Value, ± and digits of each cell, and no cell besides; second-hand is CVPR's alone."""
    table = read_table(FOLDER / f"{name}.yaml")
    found = {
        (line.row.id, metric.name): number
        for line in summarise(table, Plan(output=tmp_path))
        for metric, number in zip(table.metrics, line.paper, strict=True)
        if number != "-"
    }
    assert found == PAPER[name]
    second_hand = {row.id for row in table.rows if "second-hand" in row.note}
    assert second_hand == {row.id for row in table.rows if row.id.startswith(("deit", "ceit"))}


def test_all_tables_are_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PAPER)
    sizes = {name: len(numbers) for name, numbers in PAPER.items()}
    assert sizes["table1"] == 72
    assert sizes["table2"] == 20
    assert sizes["table5"] == 20 + 4
