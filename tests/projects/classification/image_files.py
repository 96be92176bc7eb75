"""Small sets in the layouts of real ones."""

import pickle
from hashlib import md5

import numpy as np
import torch
from torchvision import datasets
from torchvision.io import encode_jpeg, write_jpeg, write_png

from dropkey_core.engine.files.arrays import write_arrays


def noise(seed, size=(12, 16)):
    """(3, height, width) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)


def write_image_folder(folder, splits=("train", "val"), classes=("n02", "n01"), count=3):
    """``folder/<split>/<class>/``: ``count`` images each, the last one a PNG file."""
    for split in splits:
        for number, name in enumerate(classes):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count - 1):
                write_jpeg(noise(100 * number + index), str(place / f"{name}_{index}.JPEG"))
            write_png(noise(100 * number + count), str(place / f"{name}_z.png"))


def write_packed(path, num_classes=10, count=2, size=(32, 32)):
    """A packed file of ``count`` images of each class in each split, classes in turn."""
    arrays = {"classes": np.array([f"class {number}" for number in range(num_classes)])}
    for seed, split in enumerate(("train", "test")):
        labels = np.tile(np.arange(num_classes), count)
        files = [jpeg(noise(1000 * seed + row, size)) for row in range(len(labels))]
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    write_arrays(path, arrays)
    return arrays


def jpeg(image):
    """An image's bytes as a JPEG file."""
    return encode_jpeg(image, quality=95).numpy().tobytes()


def write_cifar10(folder, count=2):
    """CIFAR-10's files with ``count`` images of each class, and a class that expects just those."""
    base = folder / datasets.CIFAR10.base_folder
    base.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def write(name, content):
        data = pickle.dumps(content)
        (base / name).write_bytes(data)
        return name, md5(data).hexdigest()

    def batch(name):
        data = generator.integers(0, 256, size=(10 * count, 3072), dtype=np.uint8)
        return write(name, {"data": data, "labels": [*range(10)] * count})

    train, test = batch("data_batch_1"), batch("test_batch")
    _, checksum = write("batches.meta", {"label_names": [f"class {n}" for n in range(10)]})

    class SmallCifar10(datasets.CIFAR10):
        train_list = (train,)
        test_list = (test,)
        meta = {"filename": "batches.meta", "key": "label_names", "md5": checksum}  # noqa: RUF012

    return SmallCifar10
