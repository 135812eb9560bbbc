"""The structure of the package: imports run one way, importing is light, everything public is documented."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import proxlab as pl
from proxlab import late

ROOT = Path(pl.__file__).parent
# A file imports only from files above it in this list (folders: everything in them; within a folder, freely).
ORDER = [
    "late",
    "untraced",
    "types",
    "namespaces",
    "values",
    "groups",
    "parts",
    "scalar",
    "linker",
    "linker",
    "powers",
    "bounds",
    "penalties",
    "double_double",
    "rootfinders",
    "arguments",
    "autograd",
    "equations",
    "search",
    "choose",
    "curves",
    "backends",
    "derivative",
    "chunks",
    "lazily",
    "prox",
    "envelope",
    "certificate",
    "check",
    "inexactness",
    "optim",
    "torch",
    "study",
    "__main__",
]


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path):
    """Modules of proxlab that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "proxlab")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "proxlab":
            for a in node.names:
                full = f"{node.module}.{a.name}"
                yield full if full in MODULES else node.module
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"relative import in {path}"


def layer(module):
    return module.split(".")[1]


def test_imports_run_one_way():
    known = {module for module in MODULES if module != "proxlab"}
    unplaced = {layer(m) for m in known} - set(ORDER)
    assert not unplaced, f"say in ORDER (and docs) where {unplaced} stand"
    for module in known:
        for target in imports(MODULES[module]):
            assert target != "proxlab", f"{module} imports the whole package"
            assert ORDER.index(layer(target)) <= ORDER.index(layer(module)), f"{module} imports {target}"


def kinds_asked_for(tree, kinds):
    """Where code asks for the kind of a thing: isinstance, issubclass, a comparison with type(…), match."""

    def named(node):
        return {
            n.id if isinstance(n, ast.Name) else n.attr
            for n in ast.walk(node)
            if isinstance(n, (ast.Name, ast.Attribute))
        }

    for node in ast.walk(tree):
        asked = set()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass") and len(node.args) == 2:
                asked = named(node.args[1])
        elif isinstance(node, ast.Compare) and named(node) & {"type", "__class__"}:
            asked = named(node)
        elif isinstance(node, ast.MatchClass):
            asked = named(node.cls)
        yield from ((node.lineno, name) for name in sorted(asked & kinds))


def test_nobody_asks_for_the_class_of_a_penalty():
    """Penalties name their equation and know what depends on their kind; being one at all may be asked."""
    kinds = {"RadialPenalty"} | {
        name for name, thing in vars(pl).items() if inspect.isclass(thing) and issubclass(thing, pl.Penalty)
    } - {"Penalty"}
    assert {"L1", "GroupLinf", "GroupMCP"} <= kinds
    for module, path in MODULES.items():
        if module != "proxlab" and layer(module) != "penalties":
            found = list(kinds_asked_for(ast.parse(path.read_text()), kinds))
            assert not found, f"{module} asks for the class of a penalty: {found}"


@pytest.mark.parametrize(
    "line",
    [
        "isinstance(h, pl.GroupLinf)",
        "isinstance(h, (A, RadialPenalty))",
        "type(h) is L1",
        "L1 is not h.__class__",
        "issubclass(type(h), L1)",
        "match h:\n    case GroupLinf(): pass",
    ],
)
def test_asking_is_seen(line):
    assert list(kinds_asked_for(ast.parse(line), {"L1", "GroupLinf", "RadialPenalty"}))


# What a GPU kernel takes is a study of the kernels, not of the package's results.
PUBLIC = (
    "proxlab",
    "proxlab.inexactness",
    "proxlab.optim",
    "proxlab.study",
    "proxlab.study.environment",
    "proxlab.study.page",
    "proxlab.study.profiles",
    "proxlab.study.style",
    "proxlab.torch",
    "proxlab.backends.cuda.static",
)


def test_analysis_imports_only_the_public_package():
    # Some functions of the studies have modules of their names.
    public = {
        *PUBLIC,
        *(f"proxlab.study.{name}" for name in importlib.import_module("proxlab.study").__all__),
    }
    for path in (ROOT.parent / "analysis").rglob("*.py"):
        for target in imports(path):
            assert target in public, f"{path.name} imports {target}"


def test_importing_is_light():
    heavy = [
        "numba",
        "proxlab.backends.arrays",
        "scipy",
        "cupy",
        "torch",
        "matplotlib",
        "pandas",
        "sklearn",
        "cvxpy",
        "dask",
        "rich",
    ]
    code = f"import sys, proxlab; print([m for m in {heavy!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


def test_packages_that_are_imported_by_name_are_named():
    find, _ = late.names("proxlab", {})
    with pytest.raises(AttributeError, match=r"no attribute 'study'; import proxlab\.study$"):
        find("study")
    with pytest.raises(AttributeError, match=r"no attribute 'studies'$"):
        find("studies")


def test_all_is_sorted_and_complete():
    assert list(pl.__all__) == sorted(pl.__all__, key=lambda n: (not n.isupper(), n))
    public = {n for n in dir(pl) if not n.startswith("_") and not inspect.ismodule(getattr(pl, n))}
    assert public == {n for n in pl.__all__ if not inspect.ismodule(getattr(pl, n))}


def documented():
    """Public names, with the public methods of public classes."""
    for name in pl.__all__:
        thing = getattr(pl, name)
        if inspect.ismodule(thing):
            continue
        yield name, thing
        if inspect.isclass(thing):
            for attribute, member in inspect.getmembers(thing):
                inherited = not any(attribute in vars(c) for c in thing.__mro__ if "proxlab" in c.__module__)
                # what a root finder proposes is described once, in proxlab.rootfinders.base
                internal = attribute.startswith("_") or attribute == "propose"
                if not internal and not inherited and callable(member):
                    yield f"{name}.{attribute}", member
    for module in ("inexactness", "optim"):
        for name in getattr(pl, module).__all__:
            yield f"{module}.{name}", getattr(getattr(pl, module), name)


@pytest.mark.parametrize(("name", "thing"), list(documented()), ids=[n for n, _ in documented()])
def test_public_names_are_documented(name, thing):
    doc = inspect.getdoc(thing)
    assert doc, f"{name} has no docstring"
    if inspect.isclass(thing) and issubclass(thing, (int, Exception)):
        return
    parameters = inspect.signature(thing).parameters
    for parameter, spec in parameters.items():
        if parameter in ("self", "args", "kwargs") or parameter.startswith("_"):
            continue
        if spec.kind in (spec.VAR_POSITIONAL, spec.VAR_KEYWORD):
            continue
        words = doc + "".join(inspect.getdoc(c) or "" for c in getattr(thing, "__mro__", ()))
        assert parameter in words, f"the docstring of {name} does not mention {parameter}"


def test_modules_import_alone():
    """No cycle hides behind the order in which the package happens to import."""
    for module in MODULES:
        if layer(module + ".x") != "torch":
            importlib.import_module(module)


def test_every_module_has_a_docstring():
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), module


def test_type_checkers_see_the_names_of_the_studies():
    package = ROOT / "study" / "__init__.py"
    imported = [n for n in ast.walk(ast.parse(package.read_text())) if isinstance(n, ast.ImportFrom)]
    seen = {alias.name for node in imported if node.module.startswith("proxlab.") for alias in node.names}
    assert seen == set(importlib.import_module("proxlab.study").__all__)


def test_the_map_names_every_room():
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    rooms = [p for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()]
    for room in rooms:
        if not room.name.startswith("__"):
            assert f"{room.name}`" in text or f"{room.name}/`" in text, (
                f"CONTRIBUTING.md does not name {room.name}"
            )
