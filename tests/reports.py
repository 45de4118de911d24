"""Reports as the commands make them, with made-up figures."""

from __future__ import annotations

import math
from typing import Any

from onnxq.checks import Check, FedInput
from onnxq.differences import OutputDifference
from onnxq.report import (
    AnyReport,
    ConsumerRow,
    FactorLedger,
    FactorRow,
    FileSize,
    InspectReport,
    Ledger,
    LowRankReport,
    Report,
    RestoreReport,
    SkipRow,
    TensorRow,
    ValidateReport,
    WeightRow,
)
from onnxq.validation.measurements import (
    DataUsed,
    Estimate,
    GateRow,
    LayerRow,
    MetricRow,
    Performance,
    Timing,
)

VERSIONS = {"onnxq": "0.1.0", "onnx": "1.21.0"}

TENSORS = (
    TensorRow(
        name="conv[1].weight",
        graph="main",
        shape=(32, 3, 3, 3),
        dtype="float32",
        elements=864,
        bit_width=6,
        centroids=64,
        index_bytes=648,
        codebook_bytes=256,
        snr_db=31.25,
        scheme="optimal",
        layout="portable",
        gap=0.0,
        is_lossless=False,
        original_bytes=3456,
    ),
    TensorRow(
        name="conv2.weight",
        graph="main/loop:body",
        shape=(864,),
        dtype="float32",
        elements=864,
        bit_width=6,
        centroids=64,
        index_bytes=0,
        codebook_bytes=0,
        snr_db=31.25,
        scheme="optimal",
        layout="portable",
        is_lossless=False,
        original_bytes=3456,
        same_as="conv[1].weight",
    ),
    TensorRow(
        name="mask",
        graph="main",
        shape=(16, 16),
        dtype="float32",
        elements=256,
        bit_width=1,
        centroids=2,
        index_bytes=32,
        codebook_bytes=8,
        snr_db=None,
        scheme="lossless",
        layout="portable",
        is_lossless=True,
        original_bytes=1024,
    ),
)

SKIPPED = (
    SkipRow(
        name="bias",
        graph="main",
        elements=32,
        bytes=128,
        reason="not-smaller",
        detail="128 bytes now, 310 encoded",
    ),
    SkipRow(name="shape", graph="main", elements=2, bytes=16, reason="not-float"),
)

CHECK = Check(
    status="ok",
    samples=1,
    inputs=(FedInput(name="x", dtype="float32", shape=(1, 3)),),
    outputs=(
        OutputDifference(name="y", snr_db=28.5, max_abs=0.125, cosine=0.999, is_equal=False),
        OutputDifference(name="z", snr_db=None, max_abs=0.0, cosine=1.0, is_equal=True),
    ),
    load_ratio=1.25,
    reference_load_seconds=0.5,
    candidate_load_seconds=0.625,
)

FAILED_CHECK = Check(
    status="failed",
    samples=1,
    outputs=(
        OutputDifference(
            name="y",
            snr_db=-math.inf,
            max_abs=None,
            cosine=None,
            is_equal=False,
            mismatch="shape [3] instead of [2]",
        ),
    ),
)

UNDEFINED_CHECK = Check(
    status="ok",
    samples=1,
    outputs=(
        OutputDifference(
            name="y",
            snr_db=-math.inf,
            max_abs=None,
            cosine=None,
            is_equal=False,
            undefined="no finite value to compare: both models gave only NaN",
        ),
    ),
)

LEDGER = Ledger(indices=680, codebooks=264, added_graph=900, kept_weights=144, original_graph=512)

CONVERTED = Report(
    input=FileSize(path="models/in.onnx", file_bytes=10_000),
    output=FileSize(path="out[6].onnx", file_bytes=2_500),
    predicted_bytes=2_500,
    ce2_bytes=1_100,
    bits_per_weight=7.5,
    ledger=LEDGER,
    tensors=TENSORS,
    skipped=SKIPPED,
    check=CHECK,
    notes=("the opset was raised from 10 to 11",),
    options={"bits": 6, "include": [], "preset": None},
    versions=VERSIONS,
    seconds=0.5,
    peak_memory_bytes=10**8,
)

NOTHING_GAINED = Report(
    input=FileSize(path="int8.onnx", file_bytes=1_000),
    output=FileSize(path="out.onnx", file_bytes=1_000),
    predicted_bytes=1_000,
    ce2_bytes=0,
    bits_per_weight=None,
    ledger=None,
    tensors=(),
    skipped=SKIPPED[1:],
    check=Check(status="skipped", reason="x: onnxruntime cannot load it: why", samples=1),
    notes=(),
    options={},
    versions=VERSIONS,
    seconds=0.1,
)

INSPECTED = InspectReport(
    model=FileSize(path="in.onnx", file_bytes=10_000),
    is_converted=False,
    weights=(
        WeightRow(
            name="conv[1].weight",
            graph="main",
            kind="initializer",
            shape=(32, 3, 3, 3),
            dtype="float32",
            elements=864,
            bytes=3456,
            consumers=(ConsumerRow(op_type="Conv", node="conv[1]", input=1),),
            action="convert",
            bit_width=6,
            predicted_bytes=904,
        ),
        WeightRow(
            name="bias",
            graph="main",
            kind="constant",
            shape=(32,),
            dtype="float32",
            elements=32,
            bytes=128,
            consumers=(),
            action="keep",
            reason="not-smaller",
            detail="128 bytes now, 310 encoded",
        ),
    ),
    predicted_file_bytes=2_500,
    predicted_load_bytes=7_936,
    options={"bits": 6},
    versions=VERSIONS,
)

INSPECTED_CONVERTED = InspectReport(
    model=FileSize(path="out.onnx", file_bytes=2_500),
    is_converted=True,
    weights=(),
    tensors=TENSORS,
    ledger=LEDGER,
    predicted_load_bytes=7_936,
    bits_per_weight=7.5,
    versions=VERSIONS,
)

RESTORED = RestoreReport(
    input=FileSize(path="out.onnx", file_bytes=2_500),
    output=FileSize(path="plain.onnx", file_bytes=10_000),
    tensors=TENSORS,
    versions=VERSIONS,
    seconds=0.2,
)

TOP1 = MetricRow(
    name="top1",
    output="y",
    kind="task",
    better="higher",
    samples=200,
    reference=Estimate(value=0.97, standard_error=0.0121, low=0.946, high=0.994),
    candidate=Estimate(value=0.96, standard_error=0.0139, low=0.933, high=0.987),
    difference=Estimate(value=-0.01, standard_error=0.007, low=-0.0238, high=0.0038),
    relative_change=0.010416666666666666,
    is_within_noise=True,
)
SNR = MetricRow(
    name="snr",
    output="y",
    kind="fidelity",
    better="higher",
    unit="dB",
    samples=200,
    candidate=Estimate(value=28.5, standard_error=0.2, low=28.1, high=28.9),
)
PERFORMANCE = Performance(
    provider="CPUExecutionProvider",
    threads=0,
    is_packed=False,
    samples=32,
    reference=Timing(
        load_seconds=0.5,
        median_seconds=0.002,
        p90_seconds=0.0021,
        runs=300,
        load_peak_bytes=10**7,
        run_peak_bytes=2 * 10**7,
    ),
    candidate=Timing(load_seconds=0.625, median_seconds=0.0022, p90_seconds=0.0025, runs=300),
    load_ratio=1.25,
    latency_ratio=1.1,
)
LAYERS = (
    LayerRow(
        name="conv[1].weight",
        graph="main",
        bit_width=6,
        elements=864,
        stored_bytes=904,
        snr_db=31.25,
        output_snr_db=29.5,
        output="y",
    ),
    LayerRow(
        name="mask",
        graph="main/loop:body",
        bit_width=None,
        elements=16,
        stored_bytes=64,
        snr_db=None,
        output_snr_db=None,
    ),
)
DATA = DataUsed(
    kind="npz",
    path="val.npz",
    samples=200,
    available=1000,
    truths=("label",),
    inputs=CHECK.inputs,
    classes=10,
)

VALIDATED = ValidateReport(
    reference=FileSize(path="in.onnx", file_bytes=10_000),
    candidate=FileSize(path="out.onnx", file_bytes=2_500),
    data=DATA,
    check=CHECK,
    metrics=(SNR, TOP1),
    performance=PERFORMANCE,
    layers=LAYERS,
    gates=(
        GateRow(
            gate="--min-snr 20",
            subject="output 'y'",
            found=28.5,
            limit=20.0,
            passed=True,
            message="output 'y' has 28.50 dB, expected at least 20 dB",
        ),
    ),
    min_snr=20.0,
    passed=True,
    options={"metrics": ["snr", "top1"], "limit": 200},
    versions=VERSIONS,
    seconds=0.4,
)

INVALID = ValidateReport(
    reference=FileSize(path="in.onnx", file_bytes=10_000),
    candidate=FileSize(path=None, file_bytes=2_500),
    check=FAILED_CHECK,
    min_snr=None,
    passed=False,
    failures=("output 'y': shape [3] instead of [2]",),
    versions=VERSIONS,
    seconds=0.4,
)

FACTORS = (
    FactorRow(
        name="conv[1].weight",
        graph="main",
        nodes=("conv1",),
        kind="conv",
        shape=(32, 64, 3, 3),
        dtype="float32",
        split="spatial-hw",
        rank=20,
        full_rank=96,
        elements=18_432,
        factor_elements=5_760,
        original_bytes=73_728,
        stored_bytes=23_040,
        energy=0.96875,
        snr_db=15.0,
        output_snr_db=21.5,
        statistics="inputs",
    ),
    FactorRow(
        name="body.weight",
        graph="main/loop:body",
        nodes=("dense", ""),
        kind="matmul",
        shape=(100, 100),
        dtype="float32",
        split="matrix",
        rank=5,
        full_rank=100,
        elements=10_000,
        factor_elements=1_000,
        original_bytes=40_000,
        stored_bytes=4_000,
        energy=1.0,
        snr_db=None,
    ),
)

REDUCED = LowRankReport(
    input=FileSize(path="models/in.onnx", file_bytes=120_000),
    output=FileSize(path="low[1].onnx", file_bytes=35_000, data_files=("low.onnx.data",)),
    parameters_before=28_464,
    parameters_after=6_792,
    ledger=FactorLedger(factors=27_040, added_graph=600, kept_weights=128, original_graph=7_232),
    layers=FACTORS,
    skipped=SKIPPED,
    data=DATA,
    check=CHECK,
    notes=("values of 1 layer are not seen",),
    options={"ratio": 0.3, "ranks": []},
    versions=VERSIONS,
    seconds=0.5,
    peak_memory_bytes=10**8,
)

NOT_REDUCED = LowRankReport(
    input=FileSize(path="in.onnx", file_bytes=1_000),
    output=FileSize(path="out.onnx", file_bytes=1_000),
    parameters_before=16,
    parameters_after=16,
    ledger=None,
    layers=(),
    skipped=SKIPPED,
    check=None,
    options={"energy": 0.9},
    versions=VERSIONS,
)

ALL: dict[str, AnyReport] = {
    "converted": CONVERTED,
    "nothing-gained": NOTHING_GAINED,
    "inspected": INSPECTED,
    "inspected-converted": INSPECTED_CONVERTED,
    "restored": RESTORED,
    "validated": VALIDATED,
    "invalid": INVALID,
    "reduced": REDUCED,
    "not-reduced": NOT_REDUCED,
}


def closed(schema: Any) -> Any:
    """Return a schema that also rejects fields it does not name, so that each is published."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema:
        result["additionalProperties"] = False
    return result
