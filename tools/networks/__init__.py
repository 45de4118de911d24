"""The four networks that the tables are about, as ONNX models: graphs, and weights for them.

`models` makes them: of arrays that were trained, or of synthetic ones. `architectures` has the
graphs, `random_weights` the synthetic weights; `graph` puts nodes and tensors together, `files`
writes what came out. Needs onnx and numpy only.
"""

from tools.networks.models import NETWORKS, dcase, imagecomp, resnet50, synthetic, tensors, vgg16

__all__ = ["NETWORKS", "dcase", "imagecomp", "resnet50", "synthetic", "tensors", "vgg16"]
