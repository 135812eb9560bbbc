"""The documentation's build; `make docs` treats every warning as an error."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import proxlab
import proxlab.inexactness
import proxlab.study

project = "proxlab"
author = "The proxlab developers"
copyright = "2026, the proxlab developers"
version = release = proxlab.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
# The gallery is made of examples/.
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]
nitpicky = False

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
# The reference of proxlab.torch is built without PyTorch where it is not installed.
autodoc_mock_imports = ["torch"] if find_spec("torch") is None else []
autodoc_typehints = "none"
autoclass_content = "class"
numpydoc_show_class_members = False
# Not the order (PR03): that of keywords, of which a base class has the first, means nothing.
numpydoc_validation_checks = {"GL08", "PR02"}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

mathjax_path = "mathjax/tex-chtml.js"

# Examples run while the site is built; without PyTorch, the one that needs it is shown and not run.
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/plot_" if find_spec("torch") else "/plot_(?!.*network)",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "image_srcset": ["2x"],
    "capture_repr": ("_repr_html_",),
}

html_theme = "pydata_sphinx_theme"
html_title = f"proxlab {version}"
html_static_path = ["_static"]
html_sidebars: dict[str, list[str]] = {
    page: [] for page in ["changelog", "index", "mathematics", "studies", "torch", "tutorial"]
}
html_theme_options = {
    "show_toc_level": 2,
    "header_links_before_dropdown": 8,
    "navbar_persistent": ["search-button"],
    # Room for code in the gallery.
    "secondary_sidebar_items": {"gallery/**": []},
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def check_reference(app: Any, env: Any) -> None:
    """Fail the build when a public name has no entry in the reference."""
    from sphinx.errors import ExtensionError

    documented = env.get_domain("py").objects
    public = [
        f"{module.__name__}.{name}"
        for module in (proxlab, proxlab.inexactness, proxlab.study)
        for name in module.__all__
    ]
    missing = [name for name in public if name not in documented]
    if missing:
        raise ExtensionError(f"not in docs/reference/index.md: {', '.join(missing)}")


def setup(app: Any) -> None:
    """Register the check of the reference."""
    app.connect("env-check-consistency", check_reference)
