"""The graphs of the four networks.

VGG16 (Simonyan and Zisserman 2014) and ResNet50 (He et al. 2015) have the layers of Keras
applications, under their names there: biases in the convolutions, the stride of a ResNet stage in
the first 1x1 convolution of its first block, epsilon 1.001e-5. Images are NCHW here, so VGG16's
Flatten runs over channels first and fc1's columns stand in another order than Keras has them.

The image network and the audio network are those of the tables: nine 3x3 convolutions around a
latent of 16 channels, and the baseline of DCASE 2018 task 1 with 15 classes.

The gains keep synthetic weights' activations near their size at the input, for inputs of mean 0
and variance 1; trained weights do not see them.
"""

from __future__ import annotations

from tools.networks.graph import Conv, Graph

EPSILON = 1.001e-5
"""Of ResNet50's BatchNormalization, as in Keras applications."""
AFTER_POOL = 0.75
"""Gain of a layer behind a MaxPool of 2x2, which raises the mean square of its input."""
VGG16_LOGITS = 1.0
RESNET50_LOGITS = 1.0
"""Gains of the last dense layers, so that the Softmax neither saturates nor is flat."""
RESIDUAL_SCALE = 0.3
"""Median scale of the last BatchNormalization of a residual block, small as in trained ones."""
IMAGECOMP_LAST = 0.3
DCASE_DENSE = 0.5
"""Gain of the layer behind the MaxPool over 400 values."""


def vgg16(graph: Graph) -> None:
    """Draw VGG16: `image` [batch, 3, 224, 224] to `probabilities` [batch, 1000]."""
    value = graph.start("image", ["batch", 3, 224, 224])
    channels = 3
    for block, (convs, width) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for index in range(1, convs + 1):
            name = f"block{block}_conv{index}"
            gain = AFTER_POOL if index == 1 and block > 1 else 1
            sizes = Conv(inputs=channels, outputs=width, size=3)
            value = graph.relu(f"{name}_relu", graph.conv(name, value, sizes, gain))
            channels = width
        value = graph.max_pool(f"block{block}_pool", value, (2, 2))
    value = graph.add("Flatten", "flatten", [value], axis=1)
    value = graph.relu("fc1_relu", graph.dense("fc1", value, (25088, 4096), AFTER_POOL))
    value = graph.relu("fc2_relu", graph.dense("fc2", value, (4096, 4096)))
    _classify(graph, value, "predictions", (4096, 1000), VGG16_LOGITS)


def resnet50(graph: Graph) -> None:
    """Draw ResNet50 (version 1): `image` [batch, 3, 224, 224] to `probabilities` [batch, 1000]."""
    value = graph.start("image", ["batch", 3, 224, 224])
    value = graph.conv("conv1_conv", value, Conv(inputs=3, outputs=64, size=7, stride=2))
    value = graph.norm("conv1_bn", value, 64, epsilon=EPSILON, variance=2)
    value = graph.relu("conv1_relu", value)
    # Keras pads with zeros; after a Relu, ONNX's padding gives the same maxima.
    value = graph.add(
        "MaxPool", "pool1_pool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
    )
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 2):
        for block in range(1, blocks + 1):
            stride = 2 if block == 1 and stage > 2 else 1
            sizes = Conv(inputs=channels, outputs=width, size=1, stride=stride)
            value = _bottleneck(graph, f"conv{stage}_block{block}", value, sizes)
            channels = 4 * width
    value = graph.add("GlobalAveragePool", "avg_pool", [value])
    value = graph.add("Flatten", "flatten", [value], axis=1)
    _classify(graph, value, "predictions", (2048, 1000), RESNET50_LOGITS)


def _bottleneck(graph: Graph, name: str, value: str, first: Conv) -> str:
    """Draw a residual block; `first` is its 1x1 convolution, which takes the stride."""
    width, wide = first.outputs, 4 * first.outputs
    shortcut = value
    if first.inputs != wide:
        sizes = Conv(inputs=first.inputs, outputs=wide, size=1, stride=first.stride)
        shortcut = graph.conv(f"{name}_0_conv", value, sizes)
        shortcut = graph.norm(f"{name}_0_bn", shortcut, wide, epsilon=EPSILON, variance=2)
    for index, sizes in enumerate([first, Conv(inputs=width, outputs=width, size=3)], 1):
        value = graph.conv(f"{name}_{index}_conv", value, sizes)
        value = graph.norm(f"{name}_{index}_bn", value, width, epsilon=EPSILON, variance=2)
        value = graph.relu(f"{name}_{index}_relu", value)
    value = graph.conv(f"{name}_3_conv", value, Conv(inputs=width, outputs=wide, size=1))
    value = graph.norm(
        f"{name}_3_bn", value, wide, epsilon=EPSILON, variance=2, scale=RESIDUAL_SCALE
    )
    value = graph.add("Add", f"{name}_add", [shortcut, value])
    return graph.relu(f"{name}_out", value)


def imagecomp(graph: Graph) -> None:
    """Draw the image network: `image` [batch, 3, height, width] to `reconstruction`, the same.

    Pixels run from 0 to 1; height and width must be multiples of 4. The latent, the output of the
    node `latent`, has 16 channels at a quarter of the height and width.
    """
    shape: list[int | str] = ["batch", 3, "height", "width"]
    value = graph.start("image", shape)
    for index, (inputs, outputs) in enumerate([(3, 64), (64, 32)], 1):
        sizes = Conv(inputs=inputs, outputs=outputs, size=3, stride=2)
        value = _conv_relu(graph, f"encoder_conv{index}", value, sizes)
    value = graph.conv("encoder_conv3", value, Conv(inputs=32, outputs=16, size=3))
    value = graph.add("Sigmoid", "latent", [value])
    widths = [(16, 32), (32, 32), (32, 32), (32, 64), (64, 16)]
    for index, (inputs, outputs) in enumerate(widths, 1):
        if index == 4:
            value = graph.double("decoder_up1", value)
        sizes = Conv(inputs=inputs, outputs=outputs, size=3)
        value = _conv_relu(graph, f"decoder_conv{index}", value, sizes)
    value = graph.double("decoder_up2", value)
    last = Conv(inputs=16, outputs=3, size=3)
    value = graph.conv("decoder_conv6", value, last, IMAGECOMP_LAST, 0.5)
    bounds = [graph.numbers("black", 0), graph.numbers("white", 1)]
    value = graph.add("Clip", "clip", [value, *bounds])
    graph.finish(value, "reconstruction", shape)


def _conv_relu(graph: Graph, name: str, value: str, sizes: Conv) -> str:
    return graph.relu(f"{name}_relu", graph.conv(name, value, sizes))


def dcase(graph: Graph) -> None:
    """Draw the audio network: `logmel` [batch, 1, 40, 500] to `probabilities` [batch, 15]."""
    value = graph.start("logmel", ["batch", 1, 40, 500])
    layers = [(1, 32, (5, 5), 2.0), (32, 64, (4, 100), 6.0)]
    for index, (inputs, outputs, window, variance) in enumerate(layers, 1):
        value = graph.conv(f"conv{index}", value, Conv(inputs=inputs, outputs=outputs, size=7))
        value = graph.norm(f"bn{index}", value, outputs, variance=variance)
        value = graph.max_pool(f"pool{index}", graph.relu(f"relu{index}", value), window)
    value = graph.add("Flatten", "flatten", [value], axis=1)
    value = graph.relu("dense1_relu", graph.dense("dense1", value, (128, 100), DCASE_DENSE))
    _classify(graph, value, "dense2", (100, 15), 1.0)


def _classify(graph: Graph, value: str, name: str, sizes: tuple[int, int], gain: float) -> None:
    """Draw the last dense layer and a Softmax over its classes."""
    value = graph.add("Softmax", "softmax", [graph.dense(name, value, sizes, gain)], axis=1)
    graph.finish(value, "probabilities", ["batch", sizes[1]])
