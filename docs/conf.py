"""How the docs are built: `nox -s docs`, with warnings as errors."""

from __future__ import annotations

import importlib
import os
import re
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

from sphinx.addnodes import pending_xref

if TYPE_CHECKING:
    from docutils.nodes import Element, document, reference
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "anyio-bus"
author = "The anyio_bus authors"
copyright = "2026, The anyio_bus authors"  # noqa: A001
version = release = installed_version("anyio-bus")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "changes"]
html_theme = "furo"
html_title = "anyio-bus"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cancellation", "Owns"]

nitpicky = True
# Names of other packages resolve only where their inventories can be fetched; ours always must.
nitpick_ignore_regex = [(r"py:.*", r"(?!anyio_bus).*")]
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "anyio": ("https://anyio.readthedocs.io/en/stable", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
    }


PUBLIC = {
    f"{thing.__module__}.{thing.__qualname__}": f"{module}.{name}"
    for module in (
        "anyio_bus",
        "anyio_bus.plugins.nexo",
        "anyio_bus.plugins.nexo.methods",
        "anyio_bus.stdiobus",
        "anyio_bus.testing",
        "anyio_bus.testing.nexo",
        "anyio_bus.worker",
    )
    for name in importlib.import_module(module).__all__
    if hasattr(thing := getattr(importlib.import_module(module), name), "__qualname__")
}
PUBLIC["anyio_bus.stdiobus._streams.StreamRequest"] = "anyio_bus.stdiobus.client.StreamRequest"
# Protocols that stand for it where OpenTelemetry must not be loaded.
for module in ("_bus.observing", "worker._settings"):
    PUBLIC[f"anyio_bus.{module}.Telemetry"] = "anyio_bus.otel.Telemetry"


def _qualify_names(app: Sphinx, doctree: document) -> None:
    """Let a bare name mean that of its own module, else that of `anyio_bus`: some are in both."""
    public = set(PUBLIC.values())
    for node in doctree.findall(pending_xref):
        name = node.get("reftarget", "")
        for module in (node.get("py:module"), "anyio_bus"):
            if node.get("refdomain") == "py" and f"{module}.{name}" in public:
                node["reftarget"] = f"{module}.{name}"
                break


def _find_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> reference | Element | None:
    """Resolve `anyio_bus._bus.bus.Bus`, as annotations spell it, to the public `anyio_bus.Bus`."""
    target: str = node.get("reftarget", "")
    if re.fullmatch(r"anyio_bus\..*\b_?[A-Z](_co|_contra)?", target):
        return contnode  # a type variable has no place to link to
    if target not in PUBLIC:
        return None
    return env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", PUBLIC[target], node, contnode
    )


def _hide_private_constructor(
    app: Sphinx,
    what: str,
    name: str,
    thing: object,
    options: Any,
    signature: str | None,
    returns: str,
) -> tuple[str, str] | None:
    """Leave out how a class is made whose parts are private: users get it from a method."""
    private = set(re.findall(r"anyio_bus\.(?:\w+\.)*_[\w.]+", signature or "")) - PUBLIC.keys()
    return ("", returns) if what == "class" and private else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", _qualify_names)
    app.connect("missing-reference", _find_public_name)
    app.connect("autodoc-process-signature", _hide_private_constructor)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
