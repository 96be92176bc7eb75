"""From HUMBI's folders to an index: everything is checked, and what is broken is left out and told.

A subject is indexed at a time, by as many processes as one likes, into a part file of its own; so
a run that was stopped goes on where it was. The index, the lists of subjects and the list of what
was left out are written when all parts are there.
"""

import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dropkey_core.engine import UserError
from dropkey_core.engine.files.arrays import Layout, layout_problem, read_arrays, write_arrays
from projects.metro.humbi.files import NUM_VERTICES, body_folder, numbered
from projects.metro.humbi.index import LAYOUT, HumbiIndex, joined, stored, write_index
from projects.metro.humbi.records import write_subjects
from projects.metro.humbi.session import Part, Problem, Session, index_session

INDEX, TRAIN, TEST = "index.npz", "train_subjects.txt", "test_subjects.txt"
LEFT_OUT = "left_out.txt"
PARTS = ".prepare_humbi"  # folder of the part files, gone when all is done

# Subjects in the paper's split (arXiv 2208.02646, Table 7), which does not name them.
NUM_TRAIN, NUM_TEST = 294, 120


# ---- the whole set -------------------------------------------------------------------------------
def prepare(
    source: Path,
    train_subjects: Sequence[int] | None = None,
    test_subjects: Sequence[int] | None = None,
    *,
    num_vertices: int = NUM_VERTICES,
    num_workers: int = 0,
    seed: int = 0,
) -> HumbiIndex:
    """Check a set, write its index and its lists of subjects into its folder, and print a summary.

    Args:
        source: folder of the bundles (``Body_1_80`` and so on).
        train_subjects: ids to train on; None: those that are not tested on. If that is None, too,
            both lists are drawn with ``seed`` from the subjects that can be used: 294 and 120, as
            many as in the paper, and whoever is left is in neither; of fewer than 414 all, in that
            proportion. The paper does not name its subjects: the draw is ours.
        test_subjects: ids to test on; None: all others, or drawn, see above.
        num_vertices: rows of a mesh.
        num_workers: processes; 0 works in this one.
        seed: of the drawn split.

    Returns:
        The index, as it is in ``source / INDEX``.

    Raises:
        UserError: there is no subject at ``source``, nothing is left, or the lists have a subject
            in common or leave a split empty. Then no index is written.
    """
    sessions, problems = find_sessions(source)
    # Before the work, which takes hours; what it finds decides only how long the lists become.
    split([session.subject for session in sessions], train_subjects, test_subjects, seed)
    parts = []
    for part in indexed(source, sessions, num_vertices, num_workers):
        problems += part.problems
        parts.append(part.index)
    shutil.rmtree(source / PARTS, ignore_errors=True)  # next time files may have been mended
    tell_problems(source, problems)
    parts = [part for part in parts if len(part)]
    if not parts:
        raise UserError(f"nothing in {source} can be used; {source / LEFT_OUT} says why")
    index = joined(sorted(parts, key=lambda part: int(part.subject_ids[0])))
    chosen = split(index.subject_ids.tolist(), train_subjects, test_subjects, seed)
    if train_subjects is None and test_subjects is None:
        print(about_draw(len(index.subject_ids), chosen, seed))
    write_lists(source, index, chosen)
    write_index(source / INDEX, index)
    print(
        f"{source / INDEX}: {len(index.subject_ids):,} subjects, {len(index.camera_ids):,} cameras,"
        f" {len(index.frame_numbers):,} frames, {len(index):,} views, "
        f"{(source / INDEX).stat().st_size / 1e6:,.1f} MB"
    )
    return index


def find_sessions(source: Path) -> tuple[list[Session], list[Problem]]:
    """The body sessions below a folder of bundles, by subject, and what is none.

    Raises:
        UserError: there is no such folder, or no subject in it.
    """
    if not source.is_dir():
        raise UserError(f"no such folder: {source}; it should hold HUMBI's bundles, Body_1_80 ...")
    found: dict[int, Session] = {}
    problems = []
    for bundle in sorted(path for path in source.iterdir() if path.is_dir()):
        for subject in numbered(bundle, r"subject_(\d{1,9})"):
            body = body_folder(bundle, subject)
            if not body.is_dir():
                problems.append(Problem(str(body.parent), "subject has no body session"))
            elif subject in found:
                other = f"the first is {found[subject].folder}"
                problems.append(Problem(str(body), "subject is there twice", other))
            else:
                found[subject] = Session(subject, body.relative_to(source).as_posix())
    if not found:
        raise UserError(
            f"{source} has no <bundle>/subject_<id>/body; give the folder that HUMBI's bundles "
            "(Body_1_80 ...) were unpacked into"
        )
    return [found[subject] for subject in sorted(found)], problems


def tell_problems(source: Path, problems: list[Problem]) -> None:
    """Write the list of what is left out, and say how much of what kind it is."""
    path = source / LEFT_OUT
    lines = sorted(problem.line() for problem in problems)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    counts = Counter(problem.kind for problem in problems)
    first = {problem.kind: problem.path for problem in reversed(problems)}
    for kind, count in counts.most_common():
        print(f"left out: {count:,} x {kind} (first: {first[kind]})")
    print(f"{path}: {len(problems):,} lines" if problems else "nothing was left out")


def split(
    subjects: list[int], train: Sequence[int] | None, test: Sequence[int] | None, seed: int
) -> tuple[list[int], list[int]]:
    """Subjects to train and to test on; see ``prepare``.

    Raises:
        UserError: the two lists have a subject in common.
    """
    if train is None and test is None:
        return draw_split(subjects, seed)
    if train is None:
        train = [subject for subject in subjects if subject not in set(test or ())]
    if test is None:
        test = [subject for subject in subjects if subject not in set(train)]
    if common := sorted(set(train) & set(test)):
        raise UserError(
            f"{len(common)} subjects are both to train and to test on, first: {common[0]}"
        )
    return list(train), list(test)


def draw_split(subjects: list[int], seed: int) -> tuple[list[int], list[int]]:
    """As many subjects as the paper trains and tests on; fewer are shared in that proportion."""
    order = np.random.default_rng(seed).permutation(subjects).tolist()
    count, total = NUM_TRAIN, NUM_TRAIN + NUM_TEST
    if len(order) < total:
        count = min(max(round(NUM_TRAIN / total * len(order)), 1), max(len(order) - 1, 1))
    return sorted(order[:count]), sorted(order[count:total])


def about_draw(total: int, chosen: tuple[list[int], list[int]], seed: int) -> str:
    """The line that tells whose split a draw from ``total`` subjects is."""
    train, test = map(len, chosen)
    alike = "as large as" if (train, test) == (NUM_TRAIN, NUM_TEST) else "in the proportion of"
    return (
        f"drawn with seed {seed}: {train} subjects to train on, {test} to test on, {alike} the "
        f"paper's split ({NUM_TRAIN} and {NUM_TEST}), which it does not name; "
        f"{total - train - test:,} more are in neither list"
    )


def write_lists(source: Path, index: HumbiIndex, chosen: tuple[list[int], list[int]]) -> None:
    """Write the lists of subjects to train and to test on, without those that have no view.

    Raises:
        UserError: one of them would be empty; then none is written.
    """
    there = set(index.subject_ids.tolist())
    kept = [[subject for subject in subjects if subject in there] for subjects in chosen]
    paths = [source / name for name in (TRAIN, TEST)]
    for path, subjects in zip(paths, kept, strict=True):
        if not subjects:
            raise UserError(f"{path} would be empty: no subject of that split has a view")
    for path, subjects, wanted in zip(paths, kept, chosen, strict=True):
        write_subjects(path, subjects)
        less = len(wanted) - len(subjects)
        more = f"; {less:,} more have no view" if less else ""
        print(f"{path}: {len(subjects):,} subjects{more}")


# ---- parts ---------------------------------------------------------------------------------------
PART: Layout = {**LAYOUT, "problems": ("U", ("P", 3))}


def indexed(
    source: Path,
    sessions: list[Session],
    num_vertices: int,
    num_workers: int,
) -> Iterator[Part]:
    """The parts of all sessions, in any order; those that are there already are only read."""
    wanted = {session: source / PARTS / f"{session.subject}.npz" for session in sessions}
    missing = []
    for session, path in wanted.items():
        part = read_part(path)
        if part is None:
            missing.append((source, session, num_vertices, path))
        else:
            yield part
    total, done = len(sessions), len(sessions) - len(missing)
    if done:
        print(f"{done}/{total} subjects were done before")
    for path in tqdm(made(missing, num_workers), "subjects", total, initial=done, disable=None):
        part = read_part(path)
        assert part is not None, path
        yield part


def made(missing: list[tuple[Path, Session, int, Path]], num_workers: int) -> Iterator[Path]:
    """Make part files; gives their paths one by one as they are ready."""
    if num_workers == 0:
        for arguments in missing:
            yield make_part(*arguments)
        return
    # Ctrl-C, which the terminal sends to all processes, is left to the one that began them.
    ignore_ctrl_c = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    workers = ProcessPoolExecutor(min(num_workers, len(missing) or 1), **ignore_ctrl_c)
    try:
        for future in as_completed([workers.submit(make_part, *one) for one in missing]):
            yield future.result()
    except BaseException:  # Ctrl-C, or the caller wants no more: a half-made part is nobody's
        for process in active_children():
            process.terminate()
        raise
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


def make_part(source: Path, session: Session, num_vertices: int, path: Path) -> Path:
    """Index a session and write its part file; returns its path."""
    part = index_session(source, session, num_vertices)
    problems = [(problem.path, problem.kind, problem.details) for problem in part.problems]
    write_arrays(
        path,
        {
            **{name: getattr(part.index, name) for name in LAYOUT},
            "problems": np.array(problems, dtype=np.str_).reshape(-1, 3),
        },
    )
    return path


def read_part(path: Path) -> Part | None:
    """Read a part file; None if there is none, or one of another version."""
    if not path.is_file() or layout_problem(arrays := read_arrays(path, PART), PART):
        return None
    return Part(stored(arrays), [Problem(*map(str, row)) for row in arrays["problems"]])
