"""Own what goes over the wire under these names: pools, ids of sessions, members of frames, chunks."""

from __future__ import annotations

import os
import random
import string
import time
from typing import TYPE_CHECKING, Any

import msgspec

import anyio_bus
from anyio_bus.stdiobus.errors import TransportError

if TYPE_CHECKING:
    from anyio_bus.stdiobus.types import BusConfig, RequestOptions, SubprocessOptions

__all__ = ("chunk_text", "configs_of", "envelope_of", "new_session_id")

ID_CHARACTERS = string.ascii_lowercase + string.digits
ID_LENGTH = 6


def new_session_id() -> str:
    """Return an id for the session of a client: ``client-<milliseconds>-<6 of a-z0-9>``."""
    end = "".join(random.choices(ID_CHARACTERS, k=ID_LENGTH))  # a name, no secret
    return f"client-{time.time_ns() // 1_000_000}-{end}"


def chunk_text(_method: str, params: Any) -> str | None:
    """Return the text of a notification that is a chunk of an answer; None for any other one."""
    update = params.get("update") if isinstance(params, dict) else None
    if not isinstance(update, dict) or update.get("sessionUpdate") != "agent_message_chunk":
        return None
    content = update.get("content")
    text = content.get("text") if isinstance(content, dict) else None
    return text if isinstance(text, str) else None


def configs_of(
    config: BusConfig | None, path: str | os.PathLike[str] | None, options: SubprocessOptions | None
) -> dict[str, anyio_bus.BusConfig]:
    """Return a configuration of a bus for each pool.

    Raises:
        ValueError: It is no configuration.
        anyio_bus.InvalidArgumentError: A field is wrong.
        TransportError: There is no such file.
    """
    if config is not None:
        config.validate()
        whole = anyio_bus.BusConfig.from_json(config.to_json(), strict=True)
    else:
        if not os.path.isfile(path):  # type: ignore[arg-type]  # one of both was given
            msg = f"Config file not found: {path}"
            raise TransportError(msg)
        whole = anyio_bus.load_config(path)  # type: ignore[arg-type]
    env = {} if options is None else options.env
    return {pool.id: _config_of(pool, whole.limits, env) for pool in whole.pools}


def _config_of(
    pool: anyio_bus.Pool, limits: anyio_bus.Limits, env: dict[str, str]
) -> anyio_bus.BusConfig:
    """Return a configuration of one pool whose workers see the wire that they know.

    That has no notices of cancelled requests, and each of its frames a ``sessionId``, on which
    workers may rely; a configuration file may ask for the notices of MCP or ACP.
    """
    known = msgspec.structs.replace(
        pool,
        envelope="keep",
        chunks=chunk_text,
        collect=None,
        serial=True,  # as well as can be told where one session has several calls
        cancel="none" if pool.cancel == "lsp" else pool.cancel,
        env={**env, **pool.env},
    )
    return anyio_bus.BusConfig([known], limits)


def envelope_of(options: RequestOptions) -> dict[str, object] | None:
    """Return the members that a call's options put at the top level of its frame."""
    members: dict[str, object] = {}
    if options.agent_id:
        members["agentId"] = options.agent_id
    ext: dict[str, object] = {}
    if options.identity is not None:
        ext["identity"] = options.identity.to_dict()
    if options.audit is not None:
        ext["audit"] = options.audit.to_dict()
    if ext:
        members["_ext"] = ext
    return members or None
