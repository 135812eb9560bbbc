"""A pytest plugin: of every test that has several cases, only the first and the last (``-p tests.few``).

For another look at what the whole suite has passed already, such as on other versions of the libraries: each
use of them is met, not each case of the mathematics.
"""

from itertools import groupby


def ends(found):
    """Return the first and the last of several."""
    return found[:1] + found[1:][-1:]


def pytest_collection_modifyitems(config, items):
    """Leave out the cases between."""
    kept = []
    for _, cases in groupby(items, lambda item: item.nodeid.split("[")[0]):
        kept += ends(list(cases))
    chosen = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = kept
