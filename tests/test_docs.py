"""Every example in the README, the documentation and the docstrings runs and prints what it says."""

import doctest
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import proxlab

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = [
    "proxlab",
    "proxlab.inexactness",
    "proxlab.optim",
    *(["proxlab.study"] if importlib.util.find_spec("dask") else []),
    *(["proxlab.torch"] if importlib.util.find_spec("torch") else []),
]
PUBLIC = [(module, name) for module in MODULES for name in importlib.import_module(module).__all__]


def run(test: doctest.DocTest) -> None:
    output: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=output.append)
    assert not output, "".join(output)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page(page):
    examples = "\n".join(block for block in BLOCK.findall(page.read_text("utf-8")) if ">>>" in block)
    if "import torch" in examples:
        pytest.importorskip("torch")
    run(doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0))


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_examples_of_a_docstring(module, name):
    thing = getattr(importlib.import_module(module), name)
    for test in doctest.DocTestFinder().find(thing, name, module=False, globs={}):
        run(test)


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_a_public_name_is_documented(module, name):
    if inspect.ismodule(thing := getattr(importlib.import_module(module), name)):
        return
    assert inspect.getdoc(thing)
    listed = (ROOT / "docs/reference/index.md").read_text("utf-8").split()
    assert name in listed


def test_the_version_is_cited():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"version: {proxlab.__version__}" in citation


def test_mathematics_shows_offline():
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    if found is None:
        pytest.skip("the extra docs is not installed")
    (path,) = re.findall(r'^mathjax_path = "(.*)"$', (ROOT / "docs/conf.py").read_text("utf-8"), re.MULTILINE)
    assert (Path(found.origin).parent / "static" / path).is_file()
