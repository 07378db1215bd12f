"""The engine keeps its shape: who imports whom, and what must not be needed.

The order of the layers is import-linter's contract in pyproject.toml (``make lint``); here stands what it cannot see.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import itertools
import re
import subprocess
import sys
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest

from benchmarks.tools import code_numbers

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "cmb_plugin"
PLUGIN_FOLDERS = ("planners", "trainers", "tasks")


def engine_files() -> list[Path]:
    return sorted(ENGINE.rglob("*.py"))


def plugin_files() -> list[Path]:
    return sorted(path for folder in PLUGIN_FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imported_modules(path: Path) -> list[tuple[int, str]]:
    """(line, absolute module name) of every import of a file, wherever it stands; relative ones are resolved."""
    parents = path.relative_to(ROOT).parent.parts
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from cmb_plugin import trainers` imports a module too, so the names are given as well.
            found += [(node.lineno, module), *((node.lineno, f"{module}.{alias.name}") for alias in node.names)]
    return found


def begins_with(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_the_engine_imports_no_planner_trainer_or_task() -> None:
    plugins = [*PLUGIN_FOLDERS, *(f"cmb_plugin.{folder}" for folder in PLUGIN_FOLDERS)]
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in engine_files()
        for line, module in imported_modules(path)
        if begins_with(module, *plugins)
    ]
    assert not offences


def test_no_files_import_each_other_in_a_circle() -> None:
    known = code_numbers.modules(ROOT)
    graph = {name: code_numbers.imports(module, known) for name, module in known.items()}
    assert graph["benchmarks.studies.ablation"], "no import was seen"
    # Also where an import is for the type checker alone, or stands in a function: what a reader has to follow.
    assert code_numbers.circles(graph) == []


def test_plugins_import_the_engine_absolutely_and_other_folders_never() -> None:
    offences = []
    for path in plugin_files():
        folder = path.relative_to(ROOT).parts[0]
        others = [name for name in PLUGIN_FOLDERS if name != folder]
        for line, module in imported_modules(path):
            if begins_with(module, *others, *(f"cmb_plugin.{name}" for name in PLUGIN_FOLDERS)):
                offences.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not offences


PUBLIC_PACKAGES = (
    *("anatomy", "boxes", "conversion", "dataset", "evaluation", "images", "inference", "networks", "phantom"),
    *("planning", "preparation", "training"),
)
PUBLIC_MODULES = (
    *("detections", "errors", "files", "paths", "plugins", "settings", "workers"),
    "reporting.figures",  # by its own name, because it costs matplotlib
    *("active.evidence", "active.strategies"),  # for strategies, not for trainers: these lie below
)
THIRD_PARTY = ROOT / "tests" / "third_party"


def private_imports(path: Path) -> list[str]:
    """Imports of the engine in a plugin's file that are not of a name in a public package's ``__all__``, or of a name
    without underscore in a public module."""
    offences = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            offences += [alias.name for alias in node.names if begins_with(alias.name, "cmb_plugin")]
        elif isinstance(node, ast.ImportFrom) and not node.level and begins_with(node.module or "", "cmb_plugin"):
            package = str(node.module).partition(".")[2]
            names = {alias.name for alias in node.names}
            if package in PUBLIC_PACKAGES:
                names -= exported(package)
            elif package in PUBLIC_MODULES:
                names = {name for name in names if name.startswith("_")}
            offences += [f"{node.module}.{name}" for name in sorted(names)]
    return offences


def exported(package: str) -> set[str]:
    """The names in ``__all__`` of a package of the engine; where modules load when they are asked for, of its stub."""
    stub = ENGINE / package / "__init__.pyi"
    tree = ast.parse((stub if stub.is_file() else stub.with_suffix(".py")).read_text(encoding="utf-8"))
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
    return set(ast.literal_eval(lists[0]))


@pytest.mark.parametrize("folder", [*PLUGIN_FOLDERS, THIRD_PARTY], ids=str)
def test_plugins_need_nothing_private(folder: str | Path) -> None:
    """So what they do, a package outside the repository can do."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 2
    assert not [f"{path.relative_to(ROOT)}: {name}" for path in files for name in private_imports(path)]


def test_private_imports_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text(
        "import cmb_plugin.boxes\nfrom cmb_plugin import commands\nfrom cmb_plugin.boxes import box_centres, atss\n"
        "from cmb_plugin.boxes.coding import decode\nfrom cmb_plugin.files import read_json, _secret\n"
        "from cmb_plugin.workflows import predict\n",
        encoding="utf-8",
    )
    assert private_imports(file) == [
        "cmb_plugin.boxes",
        "cmb_plugin.commands",
        "cmb_plugin.boxes.atss",
        "cmb_plugin.boxes.coding.decode",
        "cmb_plugin.files._secret",
        "cmb_plugin.workflows.predict",
    ]


def test_the_import_finder_sees_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "cmb_plugin" / "boxes" / "some.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import trainers.a\nfrom cmb_plugin.tasks import b\nfrom ..planners import c\n"
        "from .. import trainers\ndef f():\n    from cmb_plugin import planners\n",
        encoding="utf-8",
    )
    found = {module for _, module in imported_modules(file)}
    assert {
        "trainers.a",
        "cmb_plugin.tasks.b",
        "cmb_plugin.planners.c",
        "cmb_plugin.trainers",
        "cmb_plugin.planners",
    } <= found


def run_blocking(blocked: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a Python in which importing ``blocked`` packages fails, as where they are not installed."""
    guard = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {blocked!r}:\n"
        "            raise ModuleNotFoundError(f'{name} is blocked by the test', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
    )
    return subprocess.run([sys.executable, "-c", guard + code], capture_output=True, text=True, cwd=ROOT, timeout=120)


def modules_of(package: str) -> list[str]:
    """Dotted names of all modules of a package of the engine, or of the single module of that name."""
    folder = ENGINE / package
    if not folder.is_dir():
        return [f"cmb_plugin.{package}"]
    files = sorted(folder.rglob("*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


LOWEST_LAYERS = [
    "errors",
    "files",
    "tabular",
    "plugins",
    "paths",
    "settings",
    "workers",
    "cluster",
    "schedulers",
    "detections",
]


@pytest.mark.parametrize(
    ("packages", "blocked"),
    [
        (LOWEST_LAYERS, ("torch", "SimpleITK", "scipy", "matplotlib")),
        (["boxes"], ("SimpleITK", "monai", "lightning", "scipy", "matplotlib")),
        (["images", "dataset"], ("SimpleITK", "torch", "matplotlib")),
        (["preparation"], ("torch", "SimpleITK", "lightning", "matplotlib")),
        (["intake"], ("torch", "SimpleITK", "pydicom", "lightning", "matplotlib")),
        (["exchange"], ("torch", "SimpleITK", "pydicom", "highdicom", "lightning", "matplotlib")),
        (["planning"], ("SimpleITK", "lightning", "matplotlib")),
        (["networks", "inference"], ("SimpleITK", "lightning", "monai", "matplotlib")),
        (["training"], ("SimpleITK",)),
        (["phantom"], ("torch", "SimpleITK", "lightning", "monai")),
        (["evaluation"], ("torch", "SimpleITK", "lightning", "matplotlib", "jinja2", "sklearn")),
        (["reporting"], ("torch", "SimpleITK", "lightning")),
        (["followup"], ("torch", "SimpleITK", "lightning")),
        (["anatomy"], ("torch", "SimpleITK", "nilearn", "lightning")),
        (["conversion"], ("torch", "SimpleITK", "lightning", "matplotlib", "openpyxl")),
        (["commands"], ("torch", "SimpleITK", "lightning", "monai", "nnunetv2", "matplotlib", "scipy", "blosc2")),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_packages_import_without(packages: list[str], blocked: tuple[str, ...]) -> None:
    names = [name for package in packages for name in modules_of(package)]
    result = run_blocking(blocked, "".join(f"import {name}\n" for name in names))
    assert result.returncode == 0, result.stderr


def test_a_blocked_import_fails() -> None:
    result = run_blocking(("torch",), "from cmb_plugin.boxes import box_iou")
    assert result.returncode != 0
    assert "blocked by the test" in result.stderr


def file_of(module: str) -> Path | None:
    """The file of a module of the root folders, None if it is none (a name in a module, say)."""
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def needed(module: str) -> set[str]:
    """``module`` of a plugin folder, for instance ``trainers.cmb.module``, and everything of the folder that it builds
    on, the packages on the way included; as module names of the installed package."""
    folder, names, left = module.split(".")[0], set(), [module]
    while left:
        name = left.pop()
        path = file_of(name)
        if path is None or name == folder or name in names:
            continue
        names.add(name)
        left += [name.rpartition(".")[0]]
        left += [imported for _, imported in imported_modules(path) if imported.startswith(f"{folder}.")]
    return {f"cmb_plugin.{name}" for name in names}


PLUGINS = [(kind, entry.name) for kind in PLUGIN_FOLDERS for entry in entry_points(group=f"cmb_plugin.{kind}")]


@pytest.fixture(scope="module")
def loaded_with() -> dict[tuple[str, str], list[str]]:
    """(kind, name) of every plugin -> its module, then all modules of plugins that come along.

    Each is loaded in a process of its own, forked from one that has imported the libraries, which take the time.
    """
    code = (
        "import os, sys\n"
        "import batchgeneratorsv2, blosc2, lightning, torch, scipy.ndimage, skimage.filters\n"
        "from cmb_plugin import plugins\n"
        f"for kind, name in {PLUGINS!r}:\n"
        "    sys.stdout.flush()\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        assert os.waitpid(child, 0)[1] == 0\n"
        "        continue\n"
        "    module = getattr(plugins, kind).get(name).__module__\n"
        f"    own = [m for m in sys.modules for k in {PLUGIN_FOLDERS!r} if m.startswith(f'cmb_plugin.{{k}}.')]\n"
        "    print(kind, name, module, *own, flush=True)\n"
        "    os._exit(0)\n"
    )
    result = run_blocking((), code)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    return {(kind, name): modules for kind, name, *modules in rows}


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_loading_one_plugin_loads_only_what_it_builds_on(
    kind: str, name: str, loaded_with: dict[tuple[str, str], list[str]]
) -> None:
    module, *loaded = loaded_with[kind, name]
    assert set(loaded) == needed(module.removeprefix("cmb_plugin."))


def test_plugin_folders_import_nothing_themselves() -> None:
    """The folder of one trainer may hand on what lies in it."""
    packages = [path for path in plugin_files() if path.name == "__init__.py"]
    assert len(packages) >= len(PLUGIN_FOLDERS)
    for path in packages:
        parts = path.relative_to(ROOT).parent.parts
        own = [".".join(parts)] if len(parts) > 1 else []
        assert [module for _, module in imported_modules(path) if not begins_with(module, *own)] == [], path


def test_setup_lists_every_package() -> None:
    """A folder that setup.cfg forgets works in an editable install and is missing from a wheel."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = set(config["options"]["packages"].split())
    engine = {".".join(path.parent.relative_to(ROOT).parts) for path in ENGINE.rglob("__init__.py")}
    plugins = {
        "cmb_plugin." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in PLUGIN_FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == engine | plugins


def test_every_imported_package_is_a_declared_dependency() -> None:
    """What only comes along with another package goes missing when that one no longer needs it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = config["options.extras_require"]
    names = ("cluster", "dicom", "review", "tables", "tensorboard")
    lines = config["options"]["install_requires"] + "".join(extras[name] for name in names)
    declared = {normal(re.split(r"[<>=!~ ]", line)[0]) for line in lines.split()}
    providers = packages_distributions()
    imported = {
        (module.split(".")[0], str(path.relative_to(ROOT)))
        for path in [*engine_files(), *plugin_files()]
        for _, module in imported_modules(path)
    }
    ours = {"cmb_plugin", *PLUGIN_FOLDERS, *sys.stdlib_module_names}
    undeclared = {
        f"{file} imports {name}"
        for name, file in imported
        if name not in ours and not declared & {normal(provider) for provider in providers.get(name, [name])}
    }
    assert not undeclared


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("path", [*engine_files(), *plugin_files()], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_torn_apart_by_wrapping_it_again(path: Path) -> None:
    """A full line, one word alone, and more text: what is left where a line was too long and nobody looked."""
    lines = path.read_text(encoding="utf-8").splitlines()
    torn = [
        f"{path.name}:{number}: {word.strip()}"
        for number, (before, word, after) in enumerate(zip(lines, lines[1:], lines[2:], strict=False), start=2)
        if len(before) > 80
        and re.fullmatch(r" +(?!pass|break|continue|return|raise|else)[a-z]+", word)
        and re.match(r" *\w", after)
    ]
    assert not torn


@pytest.mark.parametrize("path", [*engine_files(), *plugin_files()], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_without_an_underscore_is_described(path: Path) -> None:
    """Classes, methods and functions, those inside functions too: what they take and give should not be guessed."""
    bare = [
        f"{path.name}:{node.lineno}: {node.name}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare


def definitions(path: Path) -> dict[str, ast.AST]:
    """Functions and methods of a file by name: ``main``, ``Ensemble.remarks``."""
    found: dict[str, ast.AST] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        found |= {f"{prefix}{member.name}": member for member in members if isinstance(member, ast.FunctionDef)}
    return found


def test_the_way_from_a_command_to_the_network_is_as_the_docs_say() -> None:
    """Files and functions are there, each names the next one, and no file comes twice."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## From a command to the network")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in section.splitlines() if line.startswith("| `")]
    files = [file.strip("`") for file, _, _ in rows]
    assert files[0] == "cmb_plugin/commands/predict.py"
    assert 1 < len(files) <= 7  # that of one case is apart because other machines may call it
    assert len(set(files)) == len(files)
    for file, functions, leads_on in rows:
        known = definitions(ROOT / file.strip("`"))
        steps = re.findall(r"`([\w.]+)`", functions)
        following = [*steps[1:], *re.findall(r"`(\w+)`", leads_on)]
        assert set(steps) <= set(known), file
        for step, target in zip(steps, following, strict=False):
            names = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(known[step])}
            assert target.rpartition(".")[2] in names, f"{file}: {step} does not name {target}"
    for (_, _, leads_on), (file, functions, _) in itertools.pairwise(rows):
        target, arrived = leads_on.strip("`"), functions.split(",")[0].strip("`").rpartition(".")[2]
        assert arrived == target or (target, arrived) == ("network", "forward"), file


PUBLIC_PAGE = ROOT / "docs" / "public_api.md"


def public_modules() -> dict[str, set[str]]:
    """Module -> its public names: ``__all__`` of a package; of a single module its functions, classes and registries,
    and what plugins take from it."""
    names = {f"cmb_plugin.{package}": exported(package) for package in PUBLIC_PACKAGES}
    for module in PUBLIC_MODULES:
        tree = ast.parse(ENGINE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        known |= {target.id for target in targets if isinstance(target, ast.Name) and target.id.islower()}
        prefix = f"cmb_plugin.{module}."
        taken = {name.removeprefix(prefix) for path in plugin_files() for _, name in imported_modules(path)
                 if name.startswith(prefix)}  # fmt: skip
        names[f"cmb_plugin.{module}"] = {name for name in known | taken if not name.startswith("_")}
    return names


def test_the_page_of_the_public_api_lists_every_name_and_no_other() -> None:
    page = PUBLIC_PAGE.read_text(encoding="utf-8")
    listed = {
        module: set(re.findall(r"`(\w+)`", names))
        for module, names in re.findall(r"^### (cmb_plugin[\w.]*)\n(.*?)(?=^#|\Z)", page, re.M | re.S)
    }
    expected = public_modules()
    assert set(listed) == set(expected)
    for module, names in expected.items():
        assert listed[module] == names, f"{module}: {sorted(listed[module] ^ names)}"


LAZY = sorted(path.parent.name for path in ENGINE.glob("*/__init__.pyi"))


@pytest.mark.parametrize("package", LAZY)
def test_a_package_that_loads_late_has_every_name_of_its_stub(package: str) -> None:
    module = importlib.import_module(f"cmb_plugin.{package}")
    assert set(module.__all__) == exported(package)
    assert not [name for name in module.__all__ if getattr(module, name, None) is None]


def test_prediction_loads_no_more_than_it_needs() -> None:
    """What a reader of ``nndet_predict`` may have to open; 70 once."""
    code = (
        "import sys, cmb_plugin.workflows.predict\n"
        "files = {m: getattr(sys.modules[m], '__file__', '') for m in sys.modules if m.startswith('cmb_plugin')}\n"
        "print(*sorted(m for m, file in files.items() if not file.endswith('__init__.py')))\n"
    )
    result = run_blocking(("SimpleITK", "lightning", "matplotlib"), code)
    assert result.returncode == 0, result.stderr
    loaded = result.stdout.split()
    assert "cmb_plugin.inference.predictor" in loaded
    assert len(loaded) <= 47, loaded
    assert not [
        m for m in loaded if begins_with(m, "cmb_plugin.evaluation", "cmb_plugin.anatomy", "cmb_plugin.training")
    ]
