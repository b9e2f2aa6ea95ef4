"""Own what a wire tap hides: the values of members that are named like secrets.

What cannot be read cannot be searched either, so of a line that is no message nothing is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ("HIDDEN", "hide_secrets", "redacted_line")

HIDDEN = "***"

_NOISE = re.compile(r"[^a-z0-9]")
_SECRET = re.compile(
    "token|secret|passw|passphrase|pwd|authorization|^auth$|bearer|jwt"
    "|(api|access|private|signing|encryption|session)key|cookie|credential"
)
_HARMLESS = frozenset({"progresstoken"})  # MCP's name for what progress is reported under
# Words that may stand in the names above, anywhere in a line. An escape may hide any of them.
_SUSPECT = re.compile(
    rb"token|secret|passw|passphrase|pwd|auth|bearer|jwt|key|cookie|cred|\\u", re.IGNORECASE
)


def _is_secret(name: object) -> bool:
    plain = _NOISE.sub("", str(name).lower())
    return plain not in _HARMLESS and _SECRET.search(plain) is not None


def hide_secrets(value: Any) -> Any:
    """Return a decoded JSON value with the secrets in it replaced.

    What is under a name like ``token``, ``apiKey`` or ``Set-Cookie`` is a secret, at any depth, and
    so is the ``value`` beside a ``name`` of that kind, as in lists of headers and variables.
    """
    if isinstance(value, dict):
        label = next((value[n] for n in ("name", "key") if isinstance(value.get(n), str)), "")
        labelled = _is_secret(label)
        return {
            name: _hidden(item, name)
            if _is_secret(name) or (labelled and name == "value")
            else hide_secrets(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [hide_secrets(item) for item in value]
    return value


def _hidden(value: Any, name: str) -> Any:
    """Replace what is in a secret; the numbers beside tokens are mostly counts of them."""
    if isinstance(value, dict):
        return {key: _hidden(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_hidden(item, name) for item in value]
    if value is None or isinstance(value, bool):
        return value
    return value if not isinstance(value, str) and "token" in name.lower() else HIDDEN


def redacted_line(line: bytes, hide: Callable[[Any], Any]) -> bytes:
    """Return a line as it may be shown: the same object if nothing in it is to be hidden.

    Args:
        line: A line that may be anything.
        hide: Takes the decoded value and returns what may be shown of it.

    Raises:
        Exception: Whatever ``hide`` raises.
    """
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b'"***"\n' if line.strip() else line
    shown = hide(value)
    # A member that stands twice is seen once, so what looks suspect is written anew.
    if shown == value and not (hide is hide_secrets and _SUSPECT.search(line)):
        return line
    return msgspec.json.encode(shown) + b"\n"
