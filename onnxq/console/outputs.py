"""The files that are made of reports: CSV, plot and page; and the reading of earlier reports.

Owns which are asked for, that all of them can be made before any work, and the order of writing.
Whatever is heavy to import is imported inside a function.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.console.delivery import STDOUT, Delivery
from onnxq.errors import InputError, OptionError, OutputError

if TYPE_CHECKING:
    from onnxq.report import AnyReport
    from onnxq.sweeps.working_points import SweepReport


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Make files of reports, beside the JSON that `delivery` writes."""

    delivery: Delivery
    csv: Path | None = None
    plot: Path | None = None
    metric: str | None = None
    """Metric of the plot; None for the first that suits."""
    html: Path | None = None

    def check(self, read: Mapping[str, Path | None]) -> None:
        """Check before any work that every file can be made and written.

        Raises:
            OptionError: options contradict each other, or name no file or the same one.
            OutputError: a file cannot be written, or exists without --force.
            MissingDependencyError: a package is not installed.
        """
        if self.metric is not None and self.plot is None:
            raise OptionError("--plot-metric is for --plot, which is not given")
        self.delivery.check(self._written(), read)
        force = self.delivery.force
        if self.plot is not None:
            from onnxq.pages import plots

            plots.check_target(self.plot, force=force)
        if self.html is not None:
            from onnxq.pages import page

            page.check_target(self.html, force=force)

    def default_state(self) -> Path | None:
        """Return the state file of a sweep, beside its first output; None where it has none.

        Raises:
            OutputError: no file can be made there.
        """
        from onnxq import textfile
        from onnxq.sweeps import journal

        options = {"--json": self.delivery.json, **self._written()}
        for option, path in options.items():
            if path is not None and path != STDOUT and not textfile.is_stream(path):
                try:
                    tempfile.TemporaryFile(dir=path.parent).close()
                except OSError as err:
                    raise OutputError(
                        f"{option} {path}: no file can be made beside it, where finished points "
                        f"are kept: {err.strerror or err}; choose another folder"
                    ) from err
                return journal.beside(path)
        return None

    def _written(self) -> dict[str, Path | None]:
        return {"--csv": self.csv, "--plot": self.plot, "--html": self.html}

    def read(self, path: Path) -> AnyReport | SweepReport:
        """Return the report of an earlier command.

        Raises:
            InputError: the file cannot be read, or holds no report.
        """
        from onnxq.sweeps import journal, working_points

        try:
            content = path.read_bytes()
            if journal.is_state(content):
                raise InputError(
                    "is the state file of a sweep, expected a report of --json; give the sweep's "
                    "command again with --json to make one of it"
                )
            return working_points.load_report(json.loads(content.decode("utf-8")))
        except OSError as err:
            raise InputError(f"{path}: cannot be read: {err.strerror or err}") from err
        except (ValueError, RecursionError) as err:
            raise InputError(f"{path}: is no JSON, expected a report of --json") from err
        except InputError as err:
            raise InputError(f"{path}: {err}") from err

    def write(self, reports: Sequence[AnyReport | SweepReport], command_line: str) -> None:
        """Write every file that was asked for.

        Raises:
            OptionError: the metric of the plot was not measured.
            InputError: a report is of a command that has no working point.
            OutputError: a file cannot be written.
        """
        force = self.delivery.force
        if self.csv is not None:
            from onnxq.sweeps import sweep_csv
            from onnxq.sweeps.working_points import SweepReport

            for item in reports:
                if isinstance(item, SweepReport):
                    self.delivery.write_text(self.csv, sweep_csv.dumps(item))
        if self.plot is not None:
            from onnxq.pages import plots

            plots.save(reports, self.plot, self.metric, force=force)
        if self.html is not None:
            from onnxq.pages import page

            page.save(reports, self.html, command_line, force=force)
