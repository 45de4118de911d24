"""The tables of a report, as rich tables that fit 80 columns.

Owns columns, units and what a table leaves out. Names come from files, so they are escaped and
never read as markup. Where a table is too wide, its other texts are folded before its names, which
stand in the first column; nothing is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Column, Table
from rich.text import Text

from onnxq.checks import Check
from onnxq.differences import OutputDifference
from onnxq.plaintext import plain
from onnxq.report import FactorLedger, Ledger, SkipRow, TensorRow, WeightRow, WidthRow

REASONS = {
    "already-quantized": "quantized before",
    "ambiguous-name": "name empty or defined twice",
    "attribute": "a value inside a node",
    "bias-kept": "--keep-bias",
    "empty": "no elements",
    "excluded": "--include, --exclude",
    "graph-input": "a caller may override it",
    "infinite": "too few centroids for its infinities",
    "kept-by-allocation": "its bytes serve best as they are",
    "nan": "contains NaN",
    "norm-kept": "--keep-norm",
    "not-float": "integers, booleans, strings",
    "not-in-plan": "the plan does not name it",
    "not-smaller": "encoding gains nothing",
    "op-type": "--op-types",
    "opset": "operators too old or not imported",
    "parameter": "configures a node",
    "scalar": "a single number",
    "sparse": "stored compactly already",
    "too-few-elements": "--min-elements, or the preset",
    "variance": "of batch normalisation",
}

_DTYPES = {"float16": "f16", "float32": "f32", "float64": "f64", "bfloat16": "bf16"}
_LEAST_TEXT = 10  # columns to which a text is folded for the sake of a name
_GAP = 2  # between columns: the padding, and the box's blank line
_OPERATOR = 14  # characters of an operator's name, of which BatchNormalization has 18


def decibels(value: float | None) -> str:
    """Return a ratio in decibels with two digits; None is an infinite one.

    >>> decibels(31.257), decibels(None), decibels(float("-inf"))
    ('31.26', 'exact', 'none')
    """
    if value is None:
        return "exact"
    return f"{value:.2f}" if math.isfinite(value) else "none"


def width_table(rows: Sequence[WidthRow]) -> Table:
    """Return the share of each bit width in weights and bytes, with a total."""
    table = make_table(
        "bits", "tensors", "weights", "share", "bytes before", "bytes after", "share"
    )
    table.columns[0].justify = "right"
    elements = sum(row.elements for row in rows)
    stored = sum(row.stored_bytes for row in rows)
    for row in rows:
        table.add_row(
            "kept" if row.bit_width is None else str(row.bit_width),
            f"{row.tensors:,}",
            f"{row.elements:,}",
            share(row.elements, elements),
            f"{row.original_bytes:,}",
            f"{row.stored_bytes:,}",
            share(row.stored_bytes, stored),
        )
    if len(rows) > 1:
        original = sum(row.original_bytes for row in rows)
        tensors = sum(row.tensors for row in rows)
        table.add_section()
        table.add_row(
            "all", f"{tensors:,}", f"{elements:,}", "", f"{original:,}", f"{stored:,}", ""
        )
    return table


def ledger_table(ledger: Ledger | FactorLedger) -> Table:
    """Return every byte of the file, part by part, with the total."""
    table = make_table("in the file", "bytes", "share")
    parts = ledger.to_json()
    total = parts.pop("total")
    for name, size in parts.items():
        table.add_row(name.replace("_", " "), f"{size:,}", share(size, total))
    table.add_section()
    table.add_row("total", f"{total:,}", "")
    return table


def tensor_table(rows: Sequence[TensorRow], title: str, *, is_short: bool = False) -> Table:
    """Return encoded tensors: width, centroids in use unless short, stored bytes, SNR if known."""
    is_known = any(row.scheme != "unknown" for row in rows)
    names = ["bits", "" if is_short else "centroids", "weights", "bytes", "SNR dB" * is_known]
    table = make_table(title, *filter(None, names))
    for row in rows:
        cells = {
            "bits": str(row.bit_width),
            "centroids": f"{row.centroids:,}",
            "weights": f"{row.elements:,}",
            "bytes": "shared" if row.same_as is not None else f"{row.stored_bytes:,}",
            "SNR dB": "?" if row.scheme == "unknown" else decibels(row.snr_db),
        }
        table.add_row(place(row.name, row.graph), *(cells[name] for name in names if name))
    return table


def skip_table(rows: Sequence[SkipRow]) -> Table:
    """Return every tensor that is kept, with its reason."""
    table = make_table("kept tensors", "elements", "bytes", "reason")
    table.columns[3].justify = "left"
    for row in rows:
        reason = row.reason + (f": {plain(row.detail)}" if row.detail else "")
        cells = (f"{row.elements:,}", f"{row.bytes:,}", Text(reason))
        table.add_row(place(row.name, row.graph), *cells)
    return table


def reason_table(rows: Iterable[SkipRow], own: Mapping[str, str] | None = None) -> Table:
    """Return the kept tensors by reason, most bytes first; a command's `own` reasons come first."""
    known = {**REASONS, **(own or {})}
    groups: dict[str, list[SkipRow]] = {}
    for row in rows:
        groups.setdefault(row.reason, []).append(row)
    table = make_table("kept as they are", "tensors", "elements", "bytes", "")
    table.columns[4].justify = "left"
    for reason, group in sorted(groups.items(), key=lambda item: -_bytes(item[1])):
        table.add_row(
            Text(plain(reason)),
            f"{len(group):,}",
            f"{sum(row.elements for row in group):,}",
            f"{_bytes(group):,}",
            known.get(reason, ""),
        )
    return table


def weight_table(rows: Sequence[WeightRow], *, verbose: bool) -> Table:
    """Return the tensors of a plain model, their uses and what convert would do with each.

    Integers and the like are listed only if `verbose`.
    """
    table = make_table("tensor", "type", "bytes", "used by", "plan", "after")
    for column in (table.columns[1], table.columns[3], table.columns[4]):
        column.justify = "left"
    for row in rows:
        if not verbose and row.reason in ("not-float", "sparse", "empty"):
            continue
        is_kept = row.action == "keep"
        table.add_row(
            place(row.name, row.graph),
            f"{_DTYPES.get(row.dtype, row.dtype)} {'x'.join(map(str, row.shape)) or 'scalar'}",
            f"{row.bytes:,}",
            Text(plain(_uses(row, verbose=verbose))),
            Text(plain(_action(row, verbose=verbose)), "dim" if is_kept else ""),
            "" if row.predicted_bytes is None else f"{row.predicted_bytes:,}",
        )
    return table


def output_table(
    check: Check, failing: Iterable[OutputDifference], *, is_gated: bool = True
) -> Table:
    """Return the difference of every output, and which fail; without a gate none is called ok."""
    table = make_table("output", "SNR dB", "max abs", "cosine", "")
    failed = {output.name for output in failing}
    passed = Text("ok", "green") if is_gated else Text("compared")
    for output in check.outputs:
        table.add_row(
            Text(plain(output.name)),
            "equal" if output.is_equal else decibels(output.snr_db),
            "-" if output.max_abs is None else f"{output.max_abs:.3g}",
            "-" if output.cosine is None else f"{output.cosine:.6f}",
            Text("failed", "red")
            if output.name in failed
            else passed
            if output.undefined is None
            else Text("nothing to compare", "yellow"),
        )
    return table


def fit(table: Table, width: int) -> None:
    """Narrow the columns of text beside the names, the widest first, until the table fits."""
    widths = [_width(column) for column in table.columns]
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    texts = [at for at in range(1, len(widths)) if table.columns[at].justify == "left"]
    for at in sorted(texts, key=lambda at: -widths[at]):
        cut = min(excess, widths[at] - _LEAST_TEXT)
        if cut > 0:
            table.columns[at].max_width = widths[at] - cut
            excess -= cut


def _width(column: Column) -> int:
    """Return the columns of a terminal that a table's column takes unfolded."""
    cells = [column.header, *column.cells]
    return max(cell_len(cell.plain if isinstance(cell, Text) else str(cell)) for cell in cells)


def share(part: int, whole: int) -> str:
    """Return a part as a percentage of the whole; nothing of nothing is no share.

    >>> share(1, 3), share(0, 0)
    ('33.3 %', '-')
    """
    return f"{100 * part / whole:.1f} %" if whole else "-"


def make_table(first: str, *others: str) -> Table:
    """Return an empty table: names on the left, figures on the right, nothing ever cut."""
    table = bare_table()
    table.add_column(first, overflow="fold")
    add_figures(table, *others)
    return table


def bare_table() -> Table:
    """Return a table without columns, as all our tables look."""
    return Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )


def add_figures(table: Table, *names: str | Text) -> None:
    """Add columns of figures to a table."""
    for name in names:
        table.add_column(name, justify="right", overflow="fold")


def place(name: str, graph: str) -> Text:
    """Return a tensor's name, with its graph where that is not the main one."""
    text = Text(plain(name))
    if graph not in ("", "main"):
        text.append(f" in {plain(graph)}", "dim")
    return text


def _uses(row: WeightRow, *, verbose: bool) -> str:
    """Return the operators that use a weight, or every node and input of theirs."""
    if verbose:
        return ", ".join(f"{use.op_type} {use.node}:{use.input}" for use in row.consumers)
    counts: dict[str, int] = {}
    for use in row.consumers:
        kind = use.op_type
        kind = kind if len(kind) <= _OPERATOR else kind[: _OPERATOR - 2] + ".."
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(kind + (f" x{n}" if n > 1 else "") for kind, n in counts.items()) or "-"


def _action(row: WeightRow, *, verbose: bool) -> str:
    if row.action == "keep":
        return f"{row.reason}: {row.detail}" if verbose and row.detail else f"{row.reason}"
    return "encoded" if row.bit_width is None else f"{row.bit_width} bits"


def _bytes(rows: Iterable[SkipRow]) -> int:
    return sum(row.bytes for row in rows)
