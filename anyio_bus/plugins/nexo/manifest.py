"""Own the reading of ``nexo-plugin.toml``: the few rules of a plugin, and all rules of the host."""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from anyio_bus.plugins.nexo.errors import ManifestError

__all__ = ("lint_manifest", "read_manifest")

_ID = re.compile(r"[a-z][a-z0-9_]{0,31}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PART = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PART}(?:\.{_PART})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_REQUIREMENT = re.compile(
    rf"(?:\^|~|=|>=|<=|>|<)?\s*(?:\*|{_NUMBER}(?:\.(?:{_NUMBER}|[*xX])){{0,2}}(?:-{_PART}(?:\.{_PART})*)?)"
)
_STDERR_LINES = 512
_BACKOFF_MS = (100, 300_000)

# A table that must be filled when `plugin.capabilities.provides` names it.
_PROVIDED = {
    "tools": ("tools", "expose"),
    "advisors": ("advisors", "register"),
    "agents": ("agents", "contributes_dir"),
    "skills": ("skills", "contributes_dir"),
    "channels": ("channels", "register"),
}


# -- what a plugin itself asks for -------------------------------------------------------------


def read_manifest(toml_text: str, *, strict: bool = False) -> dict[str, Any]:
    """Read a manifest.

    Args:
        toml_text: What stands in ``nexo-plugin.toml``.
        strict: Hold it to all rules of the host, as :func:`lint_manifest` does.

    Returns:
        The whole document.

    Raises:
        ManifestError: It breaks a rule; with ``strict`` its ``problems`` are all that is wrong.
    """
    document = _parsed(toml_text)
    plugin = document.get("plugin")
    if not isinstance(plugin, dict):
        raise ManifestError("manifest has no table [plugin]")
    found = plugin.get("id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise ManifestError(f"plugin.id {_why_not(found)}")
    version = plugin.get("version")
    if not isinstance(version, str) or not version:
        raise ManifestError("plugin.version must be a text that is not empty")
    if strict:
        problems = _problems(document)
        if problems:
            raise ManifestError("; ".join(problems), tuple(problems))
    return document


def _parsed(toml_text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(toml_text)
    except (tomllib.TOMLDecodeError, TypeError, RecursionError, ValueError) as exc:
        msg = f"manifest parse failed: {exc}"
        raise ManifestError(msg) from exc


def _why_not(found: object) -> str:
    """Say what is wrong with an id."""
    if not isinstance(found, str) or not found:
        return "must be a text that is not empty"
    if found[0].isdigit():
        return f"begins with a digit: {found!r}"
    if found != found.lower():
        return f"has upper case: {found!r}"
    if len(found) > 32 and _NAME.fullmatch(found):
        return f"is longer than 32 characters: {found!r}"
    return f"must match {_ID.pattern}: {found!r}"


def check_tools(document: dict[str, Any], names: Iterable[str]) -> None:
    """Check that the manifest lists every tool that is declared.

    Raises:
        ManifestError: It does not.
    """
    names = list(names)
    if not names:
        return
    listed = extends_tools(document)
    if listed is None:
        raise ManifestError("tools are declared, but [plugin.extends].tools is no list of texts")
    missing = [name for name in names if name not in listed]
    if missing:
        msg = f"[plugin.extends].tools does not list {', '.join(map(repr, missing))}"
        raise ManifestError(msg)


def extends_tools(document: dict[str, Any]) -> list[str] | None:
    """Return ``[plugin.extends].tools``, None if it is no list of texts."""
    extends = document["plugin"].get("extends")
    tools = extends.get("tools") if isinstance(extends, dict) else None
    if isinstance(tools, list) and all(isinstance(tool, str) for tool in tools):
        return tools
    return None


def json_safe(document: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest as JSON can hold it: dates as ISO 8601.

    Raises:
        ManifestError: It holds a number that JSON does not have.
    """
    safe: dict[str, Any] = _safe(document, "")
    return safe


def _safe(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return {name: _safe(item, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_safe(item, f"{path}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        raise ManifestError(f"{path.removeprefix('.')} is {value}, which JSON does not have")
    return value


# -- what the host asks for --------------------------------------------------------------------


def lint_manifest(manifest: str | dict[str, Any]) -> list[str]:
    """Check a manifest by all rules of the host.

    Args:
        manifest: What stands in ``nexo-plugin.toml``, or what :func:`read_manifest` returned.

    Returns:
        Each thing that is wrong, as a sentence that begins with its key. None is missing because
        of another, but where the text is no TOML.
    """
    try:
        document = _parsed(manifest) if isinstance(manifest, str) else manifest
    except ManifestError as exc:
        return [str(exc)]
    return _problems(document)


def _problems(document: dict[str, Any]) -> list[str]:
    from anyio_bus.plugins.nexo.manifest_types import Manifest  # noqa: PLC0415  # not at each start

    problems = list(_shape(document, Manifest, ""))
    plugin = document.get("plugin")
    if isinstance(plugin, dict):
        for rules in (_identity, _entrypoint, _extends, _tools, _provided, _supervisor, _others):
            problems += rules(plugin)
    try:
        json_safe(document)
    except ManifestError as exc:
        problems.append(str(exc))
    return problems


def _shape(table: dict[str, Any], kind: type[msgspec.Struct], path: str) -> Iterator[str]:
    """Compare a table with a struct: names, types, and what must be there."""
    hints = get_type_hints(kind)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name in table:
        if name not in fields:
            yield f"{path}{name} is not known to the host"
    for name, field in fields.items():
        if name not in table:
            if field.required:
                yield f"{path}{name} is missing"
        else:
            yield from _typed(table[name], hints[field.name], path + name)


def _typed(value: Any, hint: Any, path: str) -> Iterator[str]:
    kind, is_list = _struct_in(hint)
    if kind is None:
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError as exc:
            yield f"{path}: {exc}"
    elif is_list:
        if not isinstance(value, list):
            yield f"{path} must be a list of tables"
            return
        for at, item in enumerate(value):
            yield from _typed(item, kind, f"{path}[{at}]")
    elif isinstance(value, dict):
        yield from _shape(value, kind, f"{path}.")
    else:
        yield f"{path} must be a table"


def _struct_in(hint: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """Return the struct that a field's type holds, and whether it is a list of them."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for option in options:
        inner = get_args(option)[0] if get_origin(option) is list else option
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            return inner, inner is not option
    return None, False


def _at(table: Any, *path: str) -> Any:
    """Return what stands at a path; None where there is nothing, or no table on the way."""
    for name in path:
        if not isinstance(table, dict):
            return None
        table = table.get(name)
    return table


def _texts(table: Any, *path: str) -> list[str]:
    found = _at(table, *path)
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _identity(plugin: dict[str, Any]) -> Iterator[str]:
    if isinstance(plugin.get("id"), str) and not _ID.fullmatch(plugin["id"]):
        yield f"plugin.id {_why_not(plugin['id'])}"
    version = plugin.get("version")
    if isinstance(version, str) and not _SEMVER.fullmatch(version):
        yield f"plugin.version is no semantic version: {version!r}"
    for name in ("name", "description"):
        if isinstance(plugin.get(name), str) and not plugin[name].strip():
            yield f"plugin.{name} is blank"
    wanted = plugin.get("min_nexo_version")
    if isinstance(wanted, str):
        parts = [part.strip() for part in wanted.split(",")]
        if not all(_REQUIREMENT.fullmatch(part) for part in parts):
            yield f"plugin.min_nexo_version is no requirement of a version: {wanted!r}"


def _entrypoint(plugin: dict[str, Any]) -> Iterator[str]:
    env = _at(plugin, "entrypoint", "env")
    for name in env if isinstance(env, dict) else ():
        if name.startswith("NEXO_"):
            yield f"plugin.entrypoint.env.{name}: names that begin with NEXO_ are the host's"


def _extends(plugin: dict[str, Any]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for section in ("channels", "llm_providers", "memory_backends", "hooks", "tools"):
        where = f"plugin.extends.{section}"
        for name in _texts(plugin, "extends", section):
            if not _NAME.fullmatch(name):
                yield f"{where}: {name!r} must match {_NAME.pattern}"
            if name in seen:
                yield f"{where}: {name!r} stands in {seen[name]} already"
            seen.setdefault(name, where)
            if section == "tools":
                yield from _prefixed(plugin, where, name)


def _prefixed(plugin: dict[str, Any], where: str, name: str) -> Iterator[str]:
    own = plugin.get("id")
    if isinstance(own, str) and not name.startswith((f"{own}_", f"ext_{own}_")):
        yield f"{where}: {name!r} must begin with {own + '_'!r} or {'ext_' + own + '_'!r}"


def _tools(plugin: dict[str, Any]) -> Iterator[str]:
    exposed = _texts(plugin, "tools", "expose")
    for name in exposed:
        yield from _prefixed(plugin, "plugin.tools.expose", name)
    for name in _texts(plugin, "tools", "deferred"):
        if name not in exposed:
            yield f"plugin.tools.deferred: {name!r} is not in plugin.tools.expose"
    outbound = _at(plugin, "tools", "outbound")
    for at, tool in enumerate(outbound if isinstance(outbound, list) else ()):
        where = f"plugin.tools.outbound[{at}]"
        name = _at(tool, "name")
        if isinstance(name, str) and name not in exposed:
            yield f"{where}.name: {name!r} is not in plugin.tools.expose"
        yield from _schema(_at(tool, "input_schema"), f"{where}.input_schema")


def _schema(text: Any, where: str) -> Iterator[str]:
    if not isinstance(text, str):
        return
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        yield f"{where} is no JSON: {exc}"
        return
    if not isinstance(schema, dict) or schema.get("type") != "object":
        yield f'{where} must be a JSON object with "type": "object"'


def _provided(plugin: dict[str, Any]) -> Iterator[str]:
    for name in _texts(plugin, "capabilities", "provides"):
        path = _PROVIDED.get(name)
        if path is not None and not _at(plugin, *path):
            yield f"plugin.capabilities.provides: {name!r} needs plugin.{'.'.join(path)}"


def _supervisor(plugin: dict[str, Any]) -> Iterator[str]:
    supervisor = _at(plugin, "supervisor")
    tail, attempts, backoff = (
        _at(supervisor, name) for name in ("stderr_tail_lines", "max_attempts", "backoff_ms")
    )
    where = "plugin.supervisor"
    if type(tail) is int and not 0 <= tail <= _STDERR_LINES:
        yield f"{where}.stderr_tail_lines must be from 0 to {_STDERR_LINES}, not {tail}"
    if _at(supervisor, "respawn") is True:
        if type(attempts) is int and attempts < 1:
            yield f"{where}.max_attempts must be at least 1 with respawn, not {attempts}"
        low, high = _BACKOFF_MS
        if type(backoff) is int and not low <= backoff <= high:
            yield f"{where}.backoff_ms must be from {low} to {high} with respawn, not {backoff}"


def _others(plugin: dict[str, Any]) -> Iterator[str]:
    channels = _at(plugin, "channels", "register")
    for at, channel in enumerate(channels if isinstance(channels, list) else ()):
        kind = _at(channel, "kind")
        if isinstance(kind, str) and not _ID.fullmatch(kind):
            yield f"plugin.channels.register[{at}].kind must match {_ID.pattern}: {kind!r}"
    gates = _at(plugin, "capability_gates", "gate")
    names = [_at(gate, "env_var") for gate in (gates if isinstance(gates, list) else ())]
    for name in sorted({name for name in names if isinstance(name, str) and names.count(name) > 1}):
        yield f"plugin.capability_gates.gate: env_var {name!r} stands there twice"
    for path in (
        ("config", "schema_path"),
        ("agents", "contributes_dir"),
        ("skills", "contributes_dir"),
    ):
        found = _at(plugin, *path)
        if isinstance(found, str) and (found.startswith("/") or ".." in found.split("/")):
            yield f"plugin.{'.'.join(path)} must be relative, without '..': {found!r}"
    for side in ("fs_read_paths", "fs_write_paths"):
        for path_text in _texts(plugin, "sandbox", side):
            plain = path_text.removeprefix("${state_dir}")
            if plain != path_text and side == "fs_read_paths":
                yield f"plugin.sandbox.{side}: ${{state_dir}} is for fs_write_paths: {path_text!r}"
            elif not plain.startswith("/") and plain == path_text:
                yield f"plugin.sandbox.{side} must be absolute: {path_text!r}"
