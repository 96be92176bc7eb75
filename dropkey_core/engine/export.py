"""Export: a trained model as one file that runs without this project, checked on the spot.

``onnx`` is what other runtimes read, ``torch`` what ``torch.export.load`` reads. A model is in
evaluation mode, in which DropKey is plain attention: nothing random is in the file.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import whole_file

TOLERANCE = 1e-4  # of an output, relative where its largest number is above 1
LEAST_SIDE = 33  # pixels: one cell of a feature map of stride 32 would be another program
OPSET = 18  # the first in which torch's exporter needs no conversion
Inputs = dict[str, Tensor]
Run = Callable[[Inputs], list[Tensor]]


@dataclass(frozen=True)
class Exportable:
    """A model as tensors in, tensors out.

    Attributes:
        module: called with its inputs by name, returns a tuple of tensors.
        outputs: their names.
        axes: of each input, names of the axes by their number; ``batch`` always varies.
        random_inputs: random ones of a batch size, a height and a width.
        size: height and width that the model is made for.
        any_size: whether it takes others, too: sides of ``LEAST_SIDE`` and ``canvas`` and more.
        canvas: the least height and width, in pixels, that it knows images of.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    axes: Mapping[str, Mapping[int, str]]
    random_inputs: Callable[[int, int, int], Inputs]
    size: tuple[int, int]
    any_size: bool
    canvas: int = 0


def random_pixels(batch: int, height: int, width: int) -> Inputs:
    """``images`` (B, 3, H, W) uint8."""
    return {"images": torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)}


def export(
    model: Exportable, file: Path, kind: str, size: tuple[int, int] | None = None
) -> dict[str, float]:
    """Write a model as a file, after checking that it computes what the model does.

    Args:
        model: on the CPU, in eval mode.
        file: what to write, whole or not at all.
        kind: ``onnx`` or ``torch``.
        size: fix height and width; by default they vary if the model can.

    Returns:
        for each output the largest difference that was found, over batches and, if they vary,
        sizes; relative to the largest number where that is above 1.

    Raises:
        UserError: a package is missing, the model cannot be exported or takes no such size, or an
            output differs by more than ``TOLERANCE``.
    """
    fixed = size is not None or not model.any_size
    if size not in (None, model.size) and not model.any_size:
        raise UserError(f"this model takes {model.size[0]} x {model.size[1]} pixels alone")
    height, width = size or model.size
    if min(height, width) < model.canvas:
        raise UserError(
            f"this model knows images that are padded to {model.canvas} pixels or more on both "
            f"sides, got {height} x {width}"
        )
    varying = {"batch"} if fixed else {"batch", "height", "width"}
    content, run = EXPORTERS[kind](model, model.random_inputs(2, height, width), varying)
    # 640 + 23: the edge of a padding of a third lies on the edge of a cell of 32 pixels' size.
    others = (height, width) if fixed else (height + 41, width + 23)
    differences = dict.fromkeys(model.outputs, 0.0)
    for inputs in (model.random_inputs(1, height, width), model.random_inputs(3, *others)):
        with torch.no_grad():
            expected, outputs = model.module(**inputs), run(inputs)
        for name, ours, found in zip(model.outputs, expected, outputs, strict=True):
            difference = float((found - ours).abs().max() / ours.abs().max().clamp(min=1.0))
            if not difference <= TOLERANCE:
                shape = "x".join(map(str, inputs["images"].shape))
                raise UserError(
                    f"nothing is written: for images {shape} the exported {name} differs by "
                    f"{difference:.2g}, {TOLERANCE:g} are allowed"
                )
            differences[name] = max(differences[name], difference)
    with whole_file(file, "wb") as opened:
        opened.write(content)
    return differences


def export_torch(model: Exportable, inputs: Inputs, varying: set[str]) -> tuple[bytes, Run]:
    """Return the bytes of a ``torch.export`` archive, and what runs it as it is read again."""
    program = torch.export.export(
        model.module, (), inputs, dynamic_shapes=dimensions(model, varying), strict=False
    )
    file = io.BytesIO()
    with quietly():
        torch.export.save(program, file)
    content = file.getvalue()
    again = torch.export.load(io.BytesIO(content)).module()
    return content, lambda inputs: list(again(**inputs))


def export_onnx(model: Exportable, inputs: Inputs, varying: set[str]) -> tuple[bytes, Run]:
    """Return the bytes of an ONNX file, and what runs it by onnxruntime.

    Raises:
        UserError: a package of the extra ``export`` is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"ONNX needs {error.name}, which is not here: pip install -e '.[train,export]'"
        ) from error
    with quietly():
        program: Any = torch.onnx.export(
            model.module,
            (),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=dimensions(model, varying),
            input_names=list(inputs),
            output_names=list(model.outputs),
            opset_version=OPSET,
            verbose=False,
        )
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    return content, run


@contextmanager
def quietly() -> Iterator[None]:
    """Keep torch and onnxscript from telling what matters to their authors alone.

    It is what was not folded, that axes share names, and that weights share storage.
    """
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for text in ("# The axis name", "No complete tensor found"):
                warnings.filterwarnings("ignore", text, UserWarning)
            yield
    finally:
        logger.setLevel(level)


EXPORTERS = {"onnx": export_onnx, "torch": export_torch}


def dimensions(model: Exportable, varying: set[str]) -> dict[str, dict[int, Any]]:
    """The axes of each input that vary, as ``torch.export`` wants them."""
    least = max(LEAST_SIDE, model.canvas)
    named = {name: torch.export.Dim(name, min=1 if name == "batch" else least) for name in varying}
    return {
        name: {axis: named[word] for axis, word in axes.items() if word in varying}
        for name, axes in model.axes.items()
    }
