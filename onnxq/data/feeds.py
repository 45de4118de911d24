"""Inputs for a model, read from what a user has.

Owns the file formats of inputs; `runtime` makes random ones. An `.npz` is keyed by input name.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.errors import InputError

Feeds = dict[str, Any]


LABELS = ("label", "target")
"""Arrays of a data file that are no inputs, unless the model has inputs of these names."""


_NO_ARCHIVE = "is not an .npz file of plain arrays, keyed by input name; numpy.savez writes one"


def load_feeds(inputs: str | os.PathLike[str] | Mapping[str, Any]) -> Feeds:
    """Return inputs by name, from an `.npz` file or a mapping of arrays.

    Args:
        inputs: the file or the arrays.

    Raises:
        InputError: the file is missing or no `.npz`, or holds pickled objects.
    """
    if isinstance(inputs, Mapping):
        return {str(name): np.asarray(values) for name, values in inputs.items()}
    path = Path(inputs)
    try:
        with path.open("rb") as file:  # np.load leaves a file open that it cannot read
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: {_NO_ARCHIVE}")
            return {name: archive[name] for name in archive.files}
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror or err}") from err
    except (ValueError, zipfile.BadZipFile, EOFError, zlib.error) as err:
        raise InputError(f"{path}: {_NO_ARCHIVE}") from err
    except MemoryError as err:
        raise InputError(f"{path}: claims arrays larger than the memory: {err}") from err


def without_labels(found: Mapping[str, Any], names: Collection[str]) -> Feeds:
    """Return arrays without `label` and `target`, unless these are among a model's inputs."""
    return {name: found[name] for name in found if name in names or name not in LABELS}
