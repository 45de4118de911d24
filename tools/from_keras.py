"""Convert VGG16 or ResNet50 of Keras applications to ONNX, every weight kept as it is.

    pip install '.[keras]'
    python tools/from_keras.py {vgg16,resnet50} -o FILE --weights imagenet|FILE.h5|random [--seed N]

`imagenet` has Keras download the published weights, `FILE.h5` is such a file (with the top), and
`random` sets the synthetic weights that tools/build_networks.py draws, in Keras's layout.

Keras 2 (tf_keras) is used, since the exporter of Keras 3 turns BatchNormalization into Mul and Add;
and tf2onnx without any of its optimizers, since they fuse BatchNormalization into Conv or merge
equal tensors, and need several times the memory. The file is written only where its parameters are
those of the Keras model, in number and in tensors, and its outputs agree with Keras's to 1e-5.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

if __name__ == "__main__":  # run as a file, Python looks beside it, not in the repository's root
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import networks
from tools.networks import files
from tools.networks.graph import FloatArray, Slot
from tools.networks.random_weights import values

MODELS = {"vgg16": "VGG16", "resnet50": "ResNet50"}
PACKAGES = ("tensorflow", "tf_keras", "tf2onnx", "onnxruntime")
OPSET = 17
SAMPLES = 4
LARGEST_DIFFERENCE = 1e-5
FLATTENED = (512, 7, 7)
"""Channels, height and width of what VGG16's fc1 sees, in the order of our builder."""
PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}
"""Ends of our tensors' names, by what Keras calls a layer's variable."""
ENVIRONMENT = {
    "TF_USE_LEGACY_KERAS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TQDM_DISABLE": "1",
}


class ConversionError(Exception):
    """What keeps a model from being converted; the message says what to do."""


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Convert a Keras application to ONNX.")
    parser.add_argument("network", choices=MODELS)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--weights", required=True, metavar="imagenet|FILE.h5|random", help="where weights are from"
    )
    parser.add_argument("--seed", type=int, default=0, help="of --weights random; default 0")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    chosen = parser.parse_args(words)
    if chosen.weights not in ("imagenet", "random") and not Path(chosen.weights).is_file():
        parser.error(
            f"--weights {chosen.weights}: no such file; expected 'imagenet', 'random' or an .h5 "
            "file of weights for the whole network, top included"
        )
    if chosen.seed < 0:
        parser.error(f"--seed {chosen.seed}: expected a whole number from 0 up")
    return chosen


def load_packages() -> dict[str, Any]:
    """Return the modules of the extra by name; raise ConversionError where one is missing."""
    os.environ.update(ENVIRONMENT)
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.import_module(name)
        except ModuleNotFoundError as err:
            raise ConversionError(
                f"the package {err.name!r} is missing; install the extra: pip install '.[keras]'"
            ) from err
    return found


def keras_model(keras: Any, network: str, weights: str, seed: int) -> Any:
    """Return the Keras model with the weights asked for."""
    make = getattr(keras.applications, MODELS[network])
    if weights == "random":
        model = make(weights=None)
        set_synthetic(network, model, seed)
        return model
    try:
        return make(weights=weights)
    except Exception as err:
        found = str(err).splitlines()[0] if str(err) else type(err).__name__
        if weights == "imagenet":
            raise ConversionError(
                f"the imagenet weights of {network} cannot be had: {found}; download that file "
                "(Keras looks in ~/.keras/models) and pass it: --weights FILE.h5"
            ) from err
        raise ConversionError(
            f"{weights}: does not fit {network}: {found}; expected the weights of the whole "
            "network, top included, as Keras saves them in .h5"
        ) from err


def set_synthetic(network: str, model: Any, seed: int) -> None:
    """Give a Keras model the weights of `networks.synthetic`, in Keras's layout."""
    slots = {slot.name: slot for slot in networks.tensors(network)}
    for variable in model.weights:
        layer, part = variable.name.removesuffix(":0").rsplit("/", 1)
        slot = slots[f"{layer}.{PARTS[part]}"]
        variable.assign(to_keras(slot, values(slot, seed)))


def to_keras(slot: Slot, array: FloatArray) -> FloatArray:
    """Return a tensor of ours in Keras's layout.

    Kernels become [height, width, in, out], dense weights [in, out]. Keras flattens height, width,
    channels, we channels, height, width: the rows of VGG16's fc1 change places.
    """
    if slot.name == "fc1.weight":
        return array.reshape(-1, *FLATTENED).transpose(2, 3, 1, 0).reshape(-1, len(array))
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def convert(modules: dict[str, Any], model: Any, metadata: dict[str, str]) -> ModelProto:
    """Return the Keras model as ONNX, with its batch axis named `batch`."""
    proto, _ = modules["tf2onnx"].convert.from_keras(model, opset=OPSET, optimizers={})
    assert isinstance(proto, ModelProto)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    helper.set_model_props(proto, metadata)
    return proto


def check_parameters(network: str, proto: ModelProto) -> tuple[int, int]:
    """Return how many float parameters and tensors there are; raise where that is not right."""
    floats = [each for each in proto.graph.initializer if each.data_type == TensorProto.FLOAT]
    found = sum(int(np.prod(each.dims)) for each in floats), len(floats)
    slots = networks.tensors(network)
    expected = sum(slot.elements for slot in slots), len(slots)
    if found != expected:
        raise ConversionError(
            f"the converted {network} has {found[0]:,} float parameters in {found[1]} tensors; "
            f"expected {expected[0]:,} in {expected[1]}: tf2onnx fused or merged some; "
            "use the versions of the extra 'keras'"
        )
    return found


def inputs() -> FloatArray:
    """Return random images, NHWC: half of unit variance, half of the range that Keras feeds.

    Synthetic weights are made for the first, and on the second their Softmax saturates, which hides
    differences; published weights are made for the second.
    """
    rng = np.random.default_rng(0)
    shape = (SAMPLES // 2, 224, 224, 3)
    pixels = rng.integers(0, 256, shape).astype(np.float32)
    pixels -= np.asarray([103.939, 116.779, 123.68], dtype=np.float32)
    return np.concatenate([rng.standard_normal(shape, dtype=np.float32), pixels])


def check_outputs(runtime: Any, path: Path, images: FloatArray, expected: FloatArray) -> float:
    """Return the largest difference from Keras's outputs; raise where it is above 1e-5."""
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = np.concatenate([session.run(None, {name: image[None]})[0] for image in images])
    difference = float(np.abs(found.astype(np.float64) - expected).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise ConversionError(
            f"the outputs differ from Keras's by up to {difference:.2g} on {len(images)} random "
            f"images; expected at most {LARGEST_DIFFERENCE:g}; nothing was written"
        )
    return difference


@contextmanager
def silence() -> Iterator[None]:
    """Keep what libraries print to oneself, unless an unforeseen error comes of it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as err:
            sys.stderr.flush()
            said.seek(0)
            if not isinstance(err, ConversionError | OSError):
                os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def run(chosen: argparse.Namespace) -> str:
    """Convert, check and write; return the line that says what was done."""
    files.check_target(chosen.output, force=chosen.force)
    with silence():
        modules = load_packages()
        model = keras_model(modules["tf_keras"], chosen.network, chosen.weights, chosen.seed)
        images = inputs()
        expected = model.predict(images, batch_size=1, verbose=0)
        proto = convert(modules, model, metadata(chosen))
        parameters, tensors = check_parameters(chosen.network, proto)
        with files.pending(chosen.output) as temporary:
            temporary.write_bytes(proto.SerializeToString(deterministic=True))
            del proto, model
            difference = check_outputs(modules["onnxruntime"], temporary, images, expected)
    return (
        f"{chosen.output}: {chosen.network}, {parameters:,} parameters in {tensors} tensors, "
        f"outputs within {difference:.2g} of Keras's on {len(images)} random images"
    )


def metadata(chosen: argparse.Namespace) -> dict[str, str]:
    """Return what the file says about its weights."""
    origin = {"generator": f"tools/from_keras.py {chosen.network}"}
    if chosen.weights == "random":
        return origin | {"weights": "synthetic", "seed": str(chosen.seed)}
    if chosen.weights == "imagenet":
        return origin | {"weights": "Keras applications, imagenet"}
    return origin | {"weights": Path(chosen.weights).name}


def main(words: list[str] | None = None) -> int:
    """Return 0, or 1 with a line on stderr where nothing was written."""
    chosen = arguments(words)
    try:
        print(run(chosen))
    except (ConversionError, OSError) as err:
        print(f"from_keras.py: error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
