"""Open what a user points at as a data set: `.npz` files, images, sounds.

Owns the decision what a path holds. Reading is done by `npz_data` and `media_data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxq.data.batches import DataOptions, Dataset
from onnxq.data.media_data import open_media
from onnxq.data.media_files import IMAGES, SOUNDS, entries
from onnxq.data.npz_data import open_npz
from onnxq.errors import InputError, OptionError
from onnxq.plaintext import plain
from onnxq.runtime import InputSpec


def open_dataset(path: Path, inputs: Sequence[InputSpec], options: DataOptions) -> Dataset:
    """Return the data set at a path, checked against the inputs of a model as far as headers tell.

    With `options.preprocess` it is a folder of images or sounds, else an `.npz` file or a folder
    of such files, in the order of their names.

    Raises:
        InputError: nothing is there, it is something else, or it does not fit the model.
        OptionError: `options` do not suit the data or the model.
        MissingDependencyError: images need Pillow.
    """
    where = plain(str(path))
    if not path.exists():
        raise InputError(f"{where}: no such file or folder")
    if not path.is_dir():
        for kind, endings in (("an image", IMAGES), ("a sound", SOUNDS)):
            if path.suffix.lower() in endings:
                raise InputError(f"{where}: is {kind}, expected a folder of them; give the folder")
        if options.preprocess is not None:
            raise OptionError(
                f"preprocess: is for folders of images and sounds, found the file {where}; "
                "leave it out"
            )
        return open_npz([path], inputs, options, None)
    if options.preprocess is not None:
        return open_media(path, inputs, options.preprocess, options)
    files = entries(path, (".npz",), "an .npz file; images and sounds need --preprocess")
    return open_npz(files, inputs, options, path)
