#!/usr/bin/env python
"""Run a trained model on pictures and videos: numbers as JSON, and pictures of what was found.

tools/predict.py --model detr-r50 --input photo.jpg holiday/ clip.mp4 --output out
tools/predict.py --model output/demo --input photos --output out --json-only
tools/predict.py --model output/metro/demo --detector detr-r50 --input 0 --output out

--model is a published name, the folder of a run, a checkpoint (file or URL; --config names its YAML
where it does not bring one along) or a DETR from Hugging Face; which kind of model it is, its
weights say. --input 0 is the first camera, until Ctrl-C.

OUTPUT/images.json lists the pictures, with the classes of a detector, as COCO's files do, and
beside it lies what was found: detections.json (COCO results), interactions.json, bodies.json or
classes.json. Where all file names are numbers, as COCO's, they are the image ids. A file that
cannot be read is told and left out, and the exit code is 1.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

import msgspec
from tqdm import tqdm

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.files.atomic_write import output_file, whole_file
from dropkey_core.engine.files.images import unique_stems
from dropkey_core.engine.files.inputs import find_inputs, is_address, is_video, read_inputs
from dropkey_core.engine.files.video import USUAL_RATE, video_rate, video_writer
from dropkey_core.engine.predictor import Predictor, Result
from projects.metro import BodyEstimator
from projects.metro.pictures.mesh_files import KINDS, import_trimesh
from projects.predictors import PREDICTORS, load_predictor, take_overrides

Add = Callable[[Any], None]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, metavar="NAME|RUN|FILE|URL", help="what was trained")
    add("--config", metavar="FILE", help="its YAML, where it does not bring one along")
    add("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    add("--input", nargs="+", required=True, metavar="FILE|FOLDER|URL|0", help="pictures, videos")
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--json-only", action="store_true", help="write no pictures and no videos")
    add("--format", default="png", choices=("png", "jpg", "webp", *KINDS), help="of pictures; "
        "METRO: html is a page to turn the meshes, the last are files of them")  # fmt: skip
    add("--score-threshold", type=float, metavar="S", help="least score of detections (0.5), "
        "interactions (0.3), and of the people that METRO's --detector finds (0.5); 0 for COCO's "
        "evaluation")  # fmt: skip
    add("--batch-size", type=int, default=1, metavar="N", help="pictures at once")
    add("--detector", metavar="NAME|RUN|FILE", help="METRO: finds the people (detr-r50); none: one "
        "person, on the whole picture")  # fmt: skip
    add("--device", metavar="NAME", help="cuda, mps or cpu instead of the YAML's")
    arguments = parser.parse_intermixed_args(argv)
    take_overrides(arguments, "input")
    return arguments


# ---- inputs and outputs --------------------------------------------------------------------------
@dataclass
class Places:
    """What there is to look at: files and addresses of pictures, videos, cameras."""

    pictures: list[str] = field(default_factory=list)
    videos: list[str | int] = field(default_factory=list)

    @classmethod
    def of(cls, words: Sequence[str]) -> "Places":
        """Sort what a command line names; UserError for a folder without pictures."""
        places = cls()
        for word in words:
            if word.isdecimal() and not Path(word).exists():
                places.videos.append(int(word))
                continue
            is_folder = not is_address(word) and Path(word).is_dir()
            for path in map(str, find_inputs(word) if is_folder else [word]):
                (places.videos if is_video(path) else places.pictures).append(path)
        return places

    @property
    def ids(self) -> dict[str, int]:
        """Image ids of pictures: their names where all are different numbers, else 1, 2, ..."""
        stems = [Path(path).stem for path in self.pictures]
        if all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
            return dict(zip(self.pictures, map(int, stems), strict=True))
        return {path: number for number, path in enumerate(self.pictures, start=1)}


@dataclass
class Report:
    """The two JSON files, written picture by picture."""

    add_image: Add
    add_found: Add
    last_id: int = 0
    count: int = 0
    found: int = 0

    def add(self, result: Result, image_id: int | None = None) -> None:
        """Write about one more picture; its id is by default the next one."""
        number = self.last_id + 1 if image_id is None else image_id
        self.last_id = max(self.last_id, number)
        height, width = result.image.shape[1:]
        size = {"height": height, "width": width}
        self.add_image({"id": number, "file_name": result.file_name, **size})
        for entry in result.entries(number):
            self.add_found(entry)
        self.count += 1
        self.found += len(result)


@contextmanager
def json_list(path: Path, before: str = "", after: str = "") -> Iterator[Add]:
    """Give a function that adds an entry to the list in a JSON file, whatever is around it."""
    with whole_file(path) as file:
        separator = "\n"

        def add(entry: Any) -> None:
            nonlocal separator
            file.write(separator + msgspec.json.encode(entry).decode())
            separator = ",\n"

        file.write(f"{before}[")
        yield add
        file.write(f"\n]{after}\n")


def options_of(predictor: Predictor[Any], score_threshold: float | None) -> dict[str, Any]:
    """What ``predict`` is given; UserError for a threshold that the model has no use for."""
    if score_threshold is None:
        return {}
    if predictor.score_threshold is None:
        raise UserError(
            f"--score-threshold is not for {predictor.kind}, but for DETR, QPIC, and METRO with "
            "--detector"
        )
    return {"score_threshold": score_threshold}


def found_words(count: int, predictor: Predictor[Any], options: Mapping[str, Any]) -> str:
    """How much was found, and where ``predict`` has a threshold which one."""
    least = options.get("score_threshold", predictor.score_threshold)
    if least is None:
        return f"{predictor.things}: {count}"
    return f"{predictor.things} with a score of {least:g} or more (--score-threshold): {count}"


# ---- the work ------------------------------------------------------------------------------------
def run(arguments: argparse.Namespace, left_out: list[UserError]) -> None:
    """Do what the command line says.

    Args:
        arguments: see ``parse_arguments``.
        left_out: gets the errors about files that could not be read.
    """
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    places = Places.of(arguments.input)
    folder = output_file(arguments.output / "images.json").parent
    finder = {} if arguments.detector is None else {"detector": arguments.detector}
    predictor = load_predictor(
        arguments.model, arguments.config, arguments.overrides, arguments.device, **finder
    )
    options = options_of(predictor, arguments.score_threshold)
    if arguments.format in KINDS:
        if not isinstance(predictor, BodyEstimator):
            raise UserError(f"--format {arguments.format} is not for {predictor.kind}")
        import_trimesh()
    for name in {kind.results_file for kind in PREDICTORS} - {predictor.results_file}:
        if (folder / name).exists():
            raise UserError(f"{folder} has the {name} of another model: name another --output")
    categories = msgspec.json.encode(getattr(predictor, "categories", list)()).decode()
    before = f'{{"categories": {categories},\n"annotations": [],\n"images": '
    only_one = len(places.pictures) + len(places.videos) == 1

    def leave_out(error: UserError) -> None:
        if only_one:
            raise error
        tqdm.write(f"left out: {error.one_line()}", file=sys.stderr)
        left_out.append(error)

    def results(source: Any) -> Iterator[Result]:
        inputs = read_inputs(source, leave_out)
        return predictor.stream(inputs, arguments.batch_size, **options)

    start = time.perf_counter()
    with (
        json_list(folder / "images.json", before, "}") as add_image,
        json_list(folder / predictor.results_file) as add_found,
    ):
        report = Report(add_image, add_found)
        ids = places.ids
        stems = dict(zip(places.pictures, unique_stems(places.pictures), strict=True))
        for result in progress(results(places.pictures), "pictures", len(places.pictures)):
            report.add(result, ids[result.file_name])
            # No mesh where nobody is before the camera.
            if not arguments.json_only and (arguments.format not in KINDS or result.placed):
                result.save(folder / f"{stems[result.file_name]}_found.{arguments.format}")
        names = unique_stems([f"camera_{v}" if isinstance(v, int) else v for v in places.videos])
        for source, name in zip(places.videos, names, strict=True):
            path = None if arguments.json_only else folder / f"{name}_found.mp4"
            try:
                follow(results(source), source, path, report)
            except UserError as error:
                leave_out(error)
    seconds = time.perf_counter() - start
    rate = report.count / seconds
    print(found_words(report.found, predictor, options))
    plural = "s" * (report.count != 1)
    print(f"{report.count} picture{plural} in {seconds:.1f} s, {rate:.1f} a second: {folder}")


def follow(results: Iterator[Result], source: str | int, path: Path | None, report: Report) -> None:
    """Go through the pictures of a video or camera, and draw them into another video."""
    is_camera = isinstance(source, int)
    rate = USUAL_RATE if is_camera else video_rate(source)
    with (
        nullcontext() if path is None else video_writer(path, rate) as draw,
        # What was seen until Ctrl-C is what was asked for.
        suppress(KeyboardInterrupt) if is_camera else nullcontext(),
    ):
        for result in progress(results, Path(str(source)).name):
            report.add(result)
            if draw is not None:
                draw(result.draw())


def progress(
    results: Iterator[Result], name: str, total: int | None = None
) -> "Iterator[Result] | tqdm[Result]":
    """Show in a terminal how many pictures have been looked at, and how many in a second."""
    return tqdm(results, name, total, leave=False, disable=None, unit=" pictures")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, 1 if files were left out, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    left_out: list[UserError] = []
    return exit_code(lambda: run(arguments, left_out)) or int(bool(left_out))


if __name__ == "__main__":
    sys.exit(main())
