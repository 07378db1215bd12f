"""Numbers that describe the code of a checkout: size, imports, circles, docstrings, duplicates.

    python -m benchmarks.tools.code_numbers                              this checkout
    python -m benchmarks.tools.code_numbers ../before ../after           side by side
    python -m benchmarks.tools.code_numbers ../before . --golden golden_before golden_after

Files are read, not imported, with two exceptions: each checkout's own .venv imports its prediction, and with --golden
it predicts again the task of one class that ``golden write`` trained, to see which of its files that needs.

- Lines: of Python files, without blank ones; comments and docstrings count.
- Circles: groups of modules that import each other, wherever in a file the import stands, typing alone included.
- Docstrings: of functions and methods whose name begins without an underscore, those of private classes and nested
  ones too; and, in a line of its own, of what others can name: functions, classes, and methods of public classes.
- Loaded files: those of the engine without ``__init__.py``, and with it, plus those of plugins.
- Duplicates: pairs of places at which the same run of lines begins, blank lines, comments, docstrings and imports left
  out and indentation ignored, a longer run counted once.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tools.golden import RUNS, model_name
from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser

ENGINE = "cmb_plugin"
FOLDERS = (ENGINE, "planners", "trainers", "tasks", "benchmarks", "tests")
PUBLIC = (ENGINE, "planners", "trainers", "tasks")  # what people import
LEAST_EQUAL = (6, 4)  # lines
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """A file of the checkout; ``name`` is dotted from the checkout's root."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """``cmb_plugin.boxes``; of single modules and plugins the folder at the root."""
        parts = self.name.split(".")
        return ".".join(parts[:2]) if parts[0] == ENGINE and self.path.parent.name != ENGINE else parts[0]


def modules(root: Path) -> dict[str, Module]:
    """Every Python file below the folders that hold code, by name."""
    collected = {}
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        collected[name] = Module(name, path, text, ast.parse(text))
    return collected


def lines(module: Module) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for line in module.text.splitlines())


def imports(module: Module, known: dict[str, Module]) -> set[str]:
    """The modules of the checkout that a file imports, other than itself."""
    base = module.name.split(".") if module.path.name == "__init__.py" else module.name.split(".")[:-1]
    beside = {path.stem for path in module.path.parent.glob("*.py")}  # of a script that is run by its path
    names: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                names.add(f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source)
    local = {".".join([*base, name]) for name in names if name in beside and name not in known}
    return ({name for name in names if name in known} | {name for name in local if name in known}) - {module.name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected groups of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        """Tarjan's step for one module."""
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            position = stack.index(name)
            group, stack[position:] = stack[position:], []
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return groups


def public_definitions(module: Module) -> Iterator[Definition]:
    """Functions and classes of a file and the methods of its classes, without private and special ones."""

    def inside(body: Sequence[ast.stmt]) -> Iterator[Definition]:
        """The definitions of a body, those of its classes too."""
        for node in body:
            if not isinstance(node, Definition) or node.name.startswith("_"):
                continue
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            if "overload" not in decorators:
                yield node
            if isinstance(node, ast.ClassDef):
                yield from inside(node.body)

    yield from inside(module.tree.body)


def functions(module: Module) -> Iterator[Definition]:
    """Every function and method of a file whose own name is public."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def code_lines(module: Module) -> list[tuple[int, str]]:
    """Number and text of the lines that a duplicate may consist of."""
    left_out: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    stripped = ((number, line.strip()) for number, line in enumerate(module.text.splitlines(), start=1))
    return [(n, line) for n, line in stripped if line and not line.startswith("#") and n not in left_out]


def duplicates(members: Sequence[Module], least: int) -> list[tuple[str, str, int]]:
    """Pairs of places ``module:line`` with at least ``least`` same lines, and how many."""
    texts = [code_lines(module) for module in members]
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for file, content in enumerate(texts):
        for start in range(len(content) - least + 1):
            places[tuple(line for _, line in content[start : start + least])].append((file, start))
    pairs = {(a, b) for same in places.values() for i, a in enumerate(same) for b in same[i + 1 :]}
    alike = []
    for (file, start), (other, begin) in sorted(pairs):
        if ((file, start - 1), (other, begin - 1)) in pairs or (file == other and begin - start < least):
            continue
        length = least
        while ((file, start + length - least + 1), (other, begin + length - least + 1)) in pairs:
            length += 1
        spots = ((members[f], texts[f][s][0]) for f, s in ((file, start), (other, begin)))
        first, second = (f"{module.name}:{number}" for module, number in spots)
        alike.append((first, second, length))
    return alike


def parameters(known: dict[str, Module], module: str, function: str) -> int | None:
    """How many a function takes; None if there is no such function."""
    for node in known[module].tree.body if module in known else ():
        if isinstance(node, ast.FunctionDef) and node.name == function:
            a = node.args
            return len([*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))])
    return None


LOADED = """
import os, sys
files = [m.__file__ for name, m in sys.modules.items() if name.split('.')[0] == 'cmb_plugin' and m.__file__]
engine = [file for file in files if os.path.relpath(file).startswith('cmb_plugin/')]
print('LOADED', sum(not file.endswith('__init__.py') for file in engine), len(engine), len(files) - len(engine))
"""


def loaded_files(root: Path, code: str, environment: dict[str, str] | None = None) -> str:
    """What a Python of the checkout has loaded after ``code``: files of the engine (with packages) + of plugins."""
    python = root / ".venv/bin/python"
    if not python.is_file():
        return "-"
    result = subprocess.run(
        [str(python), "-c", code + LOADED],
        env={**os.environ, **(environment or {})},
        cwd=root,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    line = next((line for line in result.stdout.splitlines() if line.startswith("LOADED")), "")
    if not line:
        return f"failed: {result.stderr.strip().splitlines()[-1:]}"
    files, with_packages, plugins = line.split()[1:]
    return f"{files} ({with_packages}) + {plugins}"


def loaded_by_prediction(root: Path, golden: Path | None) -> str:
    """The same after ``nndet_predict`` has predicted one tiny task."""
    if golden is None:
        return "-"
    run = RUNS[0]
    folder = golden.resolve()
    environment = {"det_data": str(folder / "data"), "det_models": str(folder / "models"), "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as output:
        line = [run.task, model_name(run), "-f", "0", "-npp", "0", "--output", output]
        return loaded_files(
            root, f"from cmb_plugin.commands.predict import main\nassert main({line!r}) == 0\n", environment
        )


def numbers(root: Path, golden: Path | None) -> dict[str, str]:
    """Every number of a checkout by its name."""
    known = modules(root)
    public = [module for module in known.values() if module.name.split(".")[0] in PUBLIC]
    counted: dict[str, str] = {}
    sizes: dict[str, list[int]] = defaultdict(list)
    for module in known.values():
        sizes[module.package].append(lines(module))
    for name in sorted(sizes, key=lambda name: (not name.startswith(ENGINE), name)):
        counted[f"lines of {name} (files)"] = f"{sum(sizes[name])} ({len(sizes[name])})"
    for title, chosen in (("the engine and plugins", public), ("everything", list(known.values()))):
        counted[f"lines of {title} (files)"] = f"{sum(map(lines, chosen))} ({len(chosen)})"
    counted["longest file"] = str(max(len(module.text.splitlines()) for module in public))
    counted["files after import of workflows.predict: engine (with __init__) + plugins"] = loaded_files(
        root, "import cmb_plugin.workflows.predict\n"
    )
    counted["files after a prediction: engine (with __init__) + plugins"] = loaded_by_prediction(root, golden)
    counted["parameters of workflows.predict.predict"] = str(
        parameters(known, "cmb_plugin.workflows.predict", "predict")
    )
    for folders in ((*PUBLIC,), ("benchmarks",)):
        graph = {m.name: imports(m, known) for m in known.values() if m.name.split(".")[0] in folders}
        groups = circles({name: {other for other in others if other in graph} for name, others in graph.items()})
        named = f": {'; '.join(', '.join(group) for group in groups)}" if groups else ""
        counted[f"circles in {', '.join(folders)}"] = f"{len(groups)}{named}"
    for title, chosen_by in (("functions and methods", functions), ("what others can name", public_definitions)):
        definitions = [node for module in public for node in chosen_by(module)]
        without = [node for node in definitions if not ast.get_docstring(node)]
        counted[f"without docstring: {title}"] = f"{len(without)} of {len(definitions)}"
    for title, members in (
        ("engine and plugins", public),
        ("benchmarks", [module for module in known.values() if module.package == "benchmarks"]),
    ):
        for least in LEAST_EQUAL:
            counted[f"pairs of places with >= {least} equal lines, {title}"] = str(len(duplicates(members, least)))
    return counted


def show_details(root: Path) -> None:
    """Prints where docstrings are missing and which places are alike."""
    public = [module for module in modules(root).values() if module.name.split(".")[0] in PUBLIC]
    for module in public:
        for node in {*functions(module), *public_definitions(module)}:
            if not ast.get_docstring(node):
                print(f"{module.path.relative_to(root)}:{node.lineno}: {node.name} has no docstring")
    for first, second, length in duplicates(public, min(LEAST_EQUAL)):
        print(f"{first} and {second}: {length} equal lines")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints one table."""
    arguments = parser(__doc__)
    arguments.add_argument("roots", nargs="*", type=Path, default=[Path()], help="checkouts (default: this folder)")
    arguments.add_argument("--golden", nargs="+", type=Path, default=[], help="for each the folder of golden write")
    arguments.add_argument("--details", action="store_true", help="also what lacks a docstring and what is alike")
    args = arguments.parse_args(argv)
    goldens = [*args.golden, *[None] * len(args.roots)]
    columns = [numbers(root.resolve(), golden) for root, golden in zip(args.roots, goldens, strict=False)]
    print(measured_on() + "\n")
    print(table_head("number", *(root.resolve().name for root in args.roots)))
    for name in dict.fromkeys(name for column in columns for name in column):
        print(table_row(name, *(column.get(name, "-") for column in columns)))
    for root in args.roots if args.details else ():
        print(f"\n{root}")
        show_details(root.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
