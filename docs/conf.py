"""The documentation: `make docs` builds it with warnings as errors."""

import re
from importlib import metadata

project = "innerloop"
copyright = "2026, the innerloop authors"
version = release = metadata.version("innerloop")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "innerloop"
html_static_path = ["images"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
default_role = "code"
napoleon_custom_sections = [("Reference", "notes_style")]
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {
    "members": True,
    "show-inheritance": False,
    "exclude-members": "set_fit_request, set_predict_request, set_score_request",  # made by scikit-learn, in its terms
}
autodoc_preserve_defaults = True
nitpicky = False


def mathematics(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings write mathematics between dollars, as Markdown does; hand it to Sphinx as it wants it."""
    text = "\n".join(lines)
    display = re.compile(r"^([ ]*)\$\$(.+?)\$\$", re.S | re.M)

    def block(match: re.Match[str]) -> str:
        indent = match.group(1)
        body = "\n".join(f"{indent}    {line.strip()}" for line in match.group(2).strip().splitlines())
        return f"{indent}.. math::\n\n{body}\n"

    text = display.sub(block, text)
    text = re.sub(r"(?<![\\$])\$([^$\n]+(?:\n[^$\n]+)?)\$", r":math:`\1`", text)
    lines[:] = text.split("\n")


def setup(app: object) -> None:
    app.connect("autodoc-process-docstring", mathematics)  # type: ignore[attr-defined]
