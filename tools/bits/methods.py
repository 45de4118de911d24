"""The ways to make a file smaller that are compared: a table of methods, each with its points.

A method is a line of this table. One that is a command of onnxq needs no code: its points are the
options that `onnxq convert IN OUT` gets. Words in braces stand for what the model has:
`{calibration}` for its calibration samples, `{size}` for a point's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tools.bits.tasks import Task
from tools.ce2 import published

Maker = Literal["float", "onnxq", "plan", "peer", "onnxsim"]
Words = tuple[str, ...]
WIDTHS = tuple(range(2, 9))
SHARES = (0.06, 0.08, 0.1, 0.12, 0.15, 0.18, 0.22, 0.26)
"""Shares of the float weights' bytes that methods with a target size are asked for."""
FEW_SHARES = (0.08, 0.2)
"""Shares beside the floors that methods which take minutes are asked for; between and beside the
floors of the task that has wider ones, those of `WIDE_SHARES`."""
WIDE_SHARES = (0.15, 0.26)
CALIBRATED = ("--calibration", "{calibration}", "--refine", "24")
"""Options of the calibrated methods; by default a refinement takes 64 runs."""
TARGETS: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("size", "file_bytes", (0.12, 0.15, 0.2)),
    ("ratio", "ratio", (0.02, 0.14, 0.25, 0.4)),
    ("bpw", "bits_a_weight", (4.5, 6.0)),
    ("snr", "output_snr_db", (20.0, 30.0)),
)
"""Options, the row's figure that must meet them, and values: a size's is a share of the weights'
bytes. No file of these models has 0.02 of the original's bytes."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Hold what the points of a method depend on: the model's bytes, and those of its weights."""

    task: Task
    file_bytes: int
    weight_bytes: int

    @property
    def graph_bytes(self) -> int:
        """What the original file holds beside its float weights."""
        return self.file_bytes - self.weight_bytes

    def size(self, share: float) -> int:
        """Return the bytes of a file with the original graph and a share of the weights' bytes."""
        return self.graph_bytes + round(share * self.weight_bytes)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Say one working point of a method.

    Attributes:
        setting: For a person; unique within the method.
        words: Options of the command, or settings of a peer.
        asked: What was asked for, by the name of the row's figure that must meet it.
    """

    setting: str
    words: Words
    asked: Mapping[str, Any] = field(default_factory=dict)


Points = Callable[[Subject], Iterator[Point]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """Describe one way to make a file smaller.

    Attributes:
        name: Stem of its rows.
        title: For a person.
        maker: What writes the file: nothing, `onnxq convert`, or a script of this folder; "plan" is
            `onnxq plan`, of which only the cost is measured.
        points: The working points on a model.
        is_drawn: Whether its points are a curve, or marks, of the plots.
    """

    name: str
    title: str
    maker: Maker
    points: Points
    is_drawn: bool = True


def by_width(*words: str) -> Points:
    """Return points of every width with the same further options."""

    def points(subject: Subject) -> Iterator[Point]:
        for bits in WIDTHS:
            yield Point(setting=f"{bits} bits", words=("--bits", str(bits), *words))

    return points


def by_share(*words: str, are_few: bool = False) -> Points:
    """Return points of target sizes, those of the floors among them, with further options."""

    def points(subject: Subject) -> Iterator[Point]:
        is_wide = min(subject.task.floors, default=0.0) > FEW_SHARES[0] * 2
        few = WIDE_SHARES if is_wide else FEW_SHARES
        for share in sorted({*(few if are_few else SHARES), *subject.task.floors}):
            size = subject.size(share)
            yield Point(
                setting=f"{share:g} of the weights",
                words=("--target-size", str(size), *words),
                asked={"file_bytes": size},
            )

    return points


def by_target(*words: str) -> Points:
    """Return ten targets of four kinds and one that no file can meet, with further options."""

    def points(subject: Subject) -> Iterator[Point]:
        for option, figure, values in TARGETS:
            for value in values:
                asked = subject.size(value) if figure == "file_bytes" else value
                text = str(asked) if figure == "file_bytes" else f"{asked:g}"
                option_words = (f"--target-{option}", text, *words)
                yield Point(setting=f"{option} {text}", words=option_words, asked={figure: asked})

    return points


def settings(**named: Words) -> Points:
    """Return points whose settings are given, `_` standing for a space, `__` for a comma."""

    def points(subject: Subject) -> Iterator[Point]:
        for name, words in named.items():
            yield Point(setting=name.replace("__", ", ").replace("_", " "), words=words)

    return points


def as_published(*further: str, is_preset: bool) -> Points:
    """Return a point for each published row of a network's tables: the preset, or its size.

    The published size counts no graph; as a target it must hold the whole file. Further options
    are those of the target.
    """

    def points(subject: Subject) -> Iterator[Point]:
        rows = published.read()
        named = [r for r in rows if r.network == subject.task.name and r.variant == "original"]
        for row in named:
            size = row.quantized_bytes
            words = ("--preset", "ce2", "--bits", str(row.bits), *subject.task.preset)
            target = ("--target-size", str(size), *further)
            yield Point(
                setting=f"row of {row.bits} bits",
                words=words if is_preset else target,
                asked={} if is_preset else {"file_bytes": size},
            )

    return points


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(name="float", title="float", maker="float", points=settings(original=())),
        Method(
            name="ce2",
            title="uniform, preset ce2",
            maker="onnxq",
            points=by_width("--preset", "ce2"),
        ),
        Method(name="optimal", title="uniform, optimal", maker="onnxq", points=by_width()),
        Method(
            name="ort-dynamic",
            title="onnxruntime dynamic int8",
            maker="peer",
            points=settings(
                per_tensor=("dynamic",),
                per_channel=("dynamic", "per-channel"),
                prepared__per_tensor=("dynamic", "prepared"),
                prepared__per_channel=("dynamic", "prepared", "per-channel"),
            ),
        ),
        Method(
            name="ort-matmul-4bit",
            title="onnxruntime MatMulNBits, 4 bits",
            maker="peer",
            points=settings(as_it_is=("matmul-4bit",), prepared=("matmul-4bit", "prepared")),
        ),
        Method(
            name="onnxsim-kmeans",
            title="onnxsim k-means, 4 bits",
            maker="onnxsim",
            points=settings(as_it_is=("kmeans",), simplified=("kmeans", "simplified")),
        ),
        Method(
            name="allocated",
            title="allocated, data-free",
            maker="onnxq",
            points=by_share(),
        ),
        Method(
            name="calibrated",
            title="allocated, calibrated",
            maker="onnxq",
            points=by_share(*CALIBRATED, "--no-feedback", "--no-correct-bias", are_few=True),
        ),
        Method(
            name="importance",
            title="calibrated, importance",
            maker="onnxq",
            points=by_share(
                *CALIBRATED, "--importance", "--no-feedback", "--no-correct-bias", are_few=True
            ),
        ),
        Method(
            name="feedback",
            title="calibrated, error feedback",
            maker="onnxq",
            points=by_share(*CALIBRATED, "--no-correct-bias", are_few=True),
        ),
        Method(
            name="corrected",
            title="calibrated, error feedback, corrected biases",
            maker="onnxq",
            points=by_share(*CALIBRATED, are_few=True),
        ),
        Method(
            name="targets",
            title="targets, data-free",
            maker="onnxq",
            points=by_target(),
            is_drawn=False,
        ),
        Method(
            name="published-size",
            title="size as published, data-free",
            maker="onnxq",
            points=as_published(is_preset=False),
            is_drawn=False,
        ),
        Method(
            name="published-size-calibrated",
            title="size as published, calibrated",
            maker="onnxq",
            points=as_published(*CALIBRATED, is_preset=False),
            is_drawn=False,
        ),
        Method(
            name="planning",
            title="onnxq plan",
            maker="plan",
            points=settings(
                **{"data-free": ("--target-ratio", "0.12")},
                calibrated__32_samples=(
                    *("--target-ratio", "0.12", "--calibration", "{calibration}"),
                    *("--calibration-samples", "32"),
                ),
            ),
            is_drawn=False,
        ),
        Method(
            name="published-preset",
            title="preset ce2 as published",
            maker="onnxq",
            points=as_published(is_preset=True),
            is_drawn=False,
        ),
    )
}
