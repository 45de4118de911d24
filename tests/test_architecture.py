"""The rules of docs/design.md and CONTRIBUTING.md about the shape of the code, enforced.

The sources are parsed, never imported. The module table is read from docs/design.md, so changing
the architecture means changing that page.
"""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "onnxq"
MODULE_LINES = 400
FUNCTION_LINES = 50
PARAMETERS = 6
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
# They only re-export and start the program, so they stand outside the table.
OUTSIDE_THE_TABLE = {"__init__", "__main__"}
# Their functions are the public interface: one parameter per choice of the caller.
MANY_PARAMETERS = {"api", "cli", "console.cli_lowrank", "console.cli_measure", "console.cli_plan"}
PRINTING = {"cli", "console.delivery"}
# Where the name to import differs from the package's.
DISTRIBUTIONS = {
    "google": "protobuf",
    "ml_dtypes": "ml-dtypes",
    "onnx_ir": "onnx-ir",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# What users choose; the other extras are for developers.
EXTRAS = ("data", "metrics", "plot", "html")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the module table."""

    level: int
    third_party: frozenset[str]
    lazy: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported module: its dotted name, and whether it is imported when the file is."""

    name: str
    line: int
    at_start: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@functools.cache
def module_table() -> dict[str, Row]:
    rows = {}
    for line in (ROOT / "docs" / "design.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 4 or not re.fullmatch(r"`[\w.]+`", cells[1]):
            continue
        words = [] if cells[3] == "-" else [word.strip() for word in cells[3].split(",")]
        names = [word.split()[0] for word in words]
        lazy = {word.split()[0] for word in words if word.endswith("(lazy)")}
        rows[cells[1].strip("`")] = Row(
            level=int(cells[0]),
            third_party=frozenset(name.partition(".")[0] for name in names),
            lazy=frozenset(name.partition(".")[0] for name in lazy),
        )
    return rows


@functools.cache
def tree(module: str) -> ast.Module:
    path = source(module)
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def source(module: str) -> Path:
    return PACKAGE / f"{module.replace('.', '/')}.py"


def modules() -> list[str]:
    """Return the modules by dotted name inside the package, such as `clustering.optimal`."""
    found = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts) for path in found)


def packages() -> list[str]:
    return [module for module in modules() if module.endswith(".__init__")]


def table_modules() -> list[str]:
    outside = {*OUTSIDE_THE_TABLE, *packages()}
    return [module for module in modules() if module not in outside]


def imports(module: str) -> Iterator[Import]:
    yield from _imports(tree(module), at_start=True)


def _imports(node: ast.AST, *, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(name=alias.name, line=child.lineno, at_start=at_start)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            assert child.module is not None
            if child.module in {"onnxq", *(f"onnxq.{name[:-9]}" for name in packages())}:
                for alias in child.names:
                    name = f"{child.module}.{alias.name}"
                    yield Import(name=name, line=child.lineno, at_start=at_start)
            else:
                yield Import(name=child.module, line=child.lineno, at_start=at_start)
        elif name := _imported_by_call(child):
            yield Import(name=name, line=getattr(child, "lineno", 0), at_start=at_start)
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        later = later or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        yield from _imports(child, at_start=at_start and not later)


def _imported_by_call(node: ast.AST) -> str | None:
    match node:
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return name
    return None


def functions(module: str) -> Iterator[tuple[Function, bool]]:
    """Yield every function at any depth, and whether it is a method."""
    for node in ast.walk(tree(module)):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield child, isinstance(node, ast.ClassDef)


def parameter_count(function: Function, *, is_method: bool) -> int:
    arguments = function.args
    count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
    count += (arguments.vararg is not None) + (arguments.kwarg is not None)
    is_static = any(ast.unparse(item) == "staticmethod" for item in function.decorator_list)
    return count - (is_method and not is_static)


def test_the_table_lists_exactly_the_modules() -> None:
    assert set(module_table()) == set(table_modules())


@pytest.mark.parametrize("module", sorted({*module_table()} & {*modules()}))
def test_imports_only_lower_levels(module: str) -> None:
    table = module_table()
    for imported in imports(module):
        if imported.top != "onnxq":
            continue
        other = imported.name.partition(".")[2]
        assert other, f"{module}.py:{imported.line}: import the module that owns the name"
        assert other in table, f"{module}.py:{imported.line}: {other} is not in docs/design.md"
        assert table[other].level < table[module].level, (
            f"{module}.py:{imported.line}: {module} (level {table[module].level}) imports "
            f"{other} (level {table[other].level})"
        )


@pytest.mark.parametrize("module", sorted({*module_table()} & {*modules()}))
def test_imports_only_the_listed_third_party_packages(module: str) -> None:
    row = module_table()[module]
    for imported in imports(module):
        if imported.top == "onnxq" or imported.top in sys.stdlib_module_names:
            continue
        where = f"{module}.py:{imported.line}: {imported.name}"
        assert imported.top in row.third_party, f"{where} is not in its row of docs/design.md"
        assert not (imported.at_start and imported.top in row.lazy), f"{where} must be lazy"


@pytest.mark.parametrize("module", sorted({*OUTSIDE_THE_TABLE, *packages()}))
def test_the_entry_points_import_nothing_else(module: str) -> None:
    for imported in imports(module):
        inside = imported.top == "onnxq" or imported.top in sys.stdlib_module_names
        assert inside, f"{module}.py:{imported.line}: {imported.name}"


@pytest.mark.parametrize("module", modules())
def test_only_runtime_knows_onnxruntime(module: str) -> None:
    known = [imported.top for imported in imports(module)]
    assert module == "runtime" or "onnxruntime" not in known


@pytest.mark.parametrize("module", modules())
def test_module_is_short_and_says_what_it_owns(module: str) -> None:
    lines = source(module).read_text(encoding="utf-8").count("\n")
    assert lines <= MODULE_LINES
    assert ast.get_docstring(tree(module)), "the module docstring is missing"


@pytest.mark.parametrize("module", modules())
def test_functions_are_short(module: str) -> None:
    for function, _ in functions(module):
        assert function.end_lineno is not None
        # A signature with a line per choice of the caller is as long as the interface is wide.
        is_interface = module in MANY_PARAMETERS and not function.name.startswith("_")
        start = function.body[0].lineno if is_interface else function.lineno
        lines = function.end_lineno - start + 1
        assert lines <= FUNCTION_LINES, f"{module}.{function.name} has {lines} lines"


@pytest.mark.parametrize("module", [name for name in modules() if name not in MANY_PARAMETERS])
def test_functions_take_few_parameters(module: str) -> None:
    for function, is_method in functions(module):
        count = parameter_count(function, is_method=is_method)
        assert count <= PARAMETERS, f"{module}.{function.name} has {count} parameters"


@pytest.mark.parametrize("module", MANY_PARAMETERS)
def test_only_the_interface_takes_many_parameters(module: str) -> None:
    for function, is_method in functions(module):
        if function.name.startswith("_"):
            count = parameter_count(function, is_method=is_method)
            assert count <= PARAMETERS, f"{module}.{function.name} has {count} parameters"


@pytest.mark.parametrize("module", modules())
def test_module_names_say_something(module: str) -> None:
    public = {function.name for function, is_method in functions("api") if not is_method}
    for name in module.split("."):
        assert name not in FORBIDDEN_NAMES
        assert name not in public, "a module must not bear the name of a public function"


@pytest.mark.parametrize("module", [name for name in modules() if name not in PRINTING])
def test_only_cli_and_delivery_print_or_exit(module: str) -> None:
    ends_itself = module == "__main__"
    for node in ast.walk(tree(module)):
        match node:
            case ast.Call(func=ast.Name(id="print" | "input" as name)):
                pytest.fail(f"{module}.py:{node.lineno}: {name}()")
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "exit" as name):
                assert ends_itself, f"{module}.py:{node.lineno}: sys.{name}"
            case ast.Raise(exc=ast.Name("SystemExit") | ast.Call(func=ast.Name("SystemExit"))):
                assert ends_itself, f"{module}.py:{node.lineno}: SystemExit"


def _package(bound: str) -> str:
    return re.split(r"[<>=; \[]", bound)[0]


def test_every_third_party_package_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {_package(bound) for bound in project["dependencies"]}
    optional = {
        _package(bound) for extra in EXTRAS for bound in project["optional-dependencies"][extra]
    }
    for module, row in module_table().items():
        for name in row.third_party:
            package = DISTRIBUTIONS.get(name, name)
            known = declared | optional if name in row.lazy else declared
            assert package in known, f"{module} uses {name}, which pyproject.toml does not list"


def test_the_lowest_constraints_are_the_stated_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    stated = [*project["dependencies"]]
    for extra in ("test", *EXTRAS, "browser"):
        stated += [bound for bound in extras[extra] if _package(bound) != project["name"]]
    lines = (ROOT / "tools" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = [line for line in lines if line and not line.startswith("#")]
    bounds = [bound.partition(";")[0].strip() for bound in stated]
    assert [re.sub(r"(\.0)+$", "", line).replace("==", ">=") for line in lowest] == [
        re.sub(r"(\.0)+$", "", bound) for bound in bounds
    ]
