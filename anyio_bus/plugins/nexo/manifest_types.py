"""Own the shape of ``nexo-plugin.toml`` as the host reads it; a name that is not here is refused.

Sections that only later daemons know are taken as they are.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ("Manifest", "Plugin")

Table = dict[str, Any]


class Entrypoint(msgspec.Struct):
    """How the host starts the plugin."""

    command: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}


class Requires(msgspec.Struct):
    """What must be there."""

    bins: list[str] = []
    env: list[str] = []
    features: list[str] = []
    nexo_capabilities: list[str] = []


class Channel(msgspec.Struct):
    """A kind of channel."""

    kind: str
    adapter: str


class Channels(msgspec.Struct):
    """The channels that it adds."""

    register: list[Channel] = []


class Extends(msgspec.Struct):
    """The names that it adds to the host."""

    channels: list[str] = []
    llm_providers: list[str] = []
    memory_backends: list[str] = []
    hooks: list[str] = []
    tools: list[str] = []


class OutboundTool(msgspec.Struct):
    """A tool that others call."""

    name: str
    description: str
    input_schema: str
    rpc_method: str = "outbound_tool.invoke"
    timeout_ms: int | None = None


class Tools(msgspec.Struct):
    """The tools that it shows."""

    expose: list[str] = []
    deferred: list[str] = []
    outbound: list[OutboundTool] = []


class Topics(msgspec.Struct):
    """Further topics."""

    subscribe: list[str] = []
    publish: list[str] = []


class Admin(msgspec.Struct):
    """Rights of an administrator."""

    required: list[str] = []
    optional: list[str] = []


class HttpServer(msgspec.Struct):
    """A port of its own."""

    port: int | None = None
    bind: str | None = None
    token_env: str | None = None
    health_path: str | None = None
    extra_env_passthrough: list[str] = []


class Capabilities(msgspec.Struct):
    """What it may do."""

    provides: list[
        Literal[
            "tools",
            "advisors",
            "agents",
            "skills",
            "channels",
            "hooks",
            "mcp_servers",
            "webhooks",
            "poller_drivers",
            "llm_providers",
        ]
    ] = []
    broker: Topics | None = None
    admin: Admin | None = None
    http_server: HttpServer | None = None
    skills: Any = None


class Supervisor(msgspec.Struct):
    """What becomes of it when it dies."""

    respawn: bool = False
    max_attempts: int = 3
    backoff_ms: int = 1000
    stderr_tail_lines: int = 32


class Sandbox(msgspec.Struct):
    """What it may reach."""

    enabled: bool = False
    network: Literal["deny", "host"] = "deny"
    fs_read_paths: list[str] = []
    fs_write_paths: list[str] = []
    drop_user: Any = None


class Config(msgspec.Struct):
    """Where the schema of its settings stands."""

    schema_path: str | None = None
    hot_reload: bool = True


class ConfigSchema(msgspec.Struct):
    """The schema of its settings."""

    schema: Any = None
    shape: Literal["object", "array"] = "object"
    hot_reload: bool = True


class Agents(msgspec.Struct):
    """Agents that it brings."""

    contributes_dir: str | None = None
    allow_override: bool = False


class Skills(msgspec.Struct):
    """Skills that it brings."""

    contributes_dir: str | None = None


class Advisors(msgspec.Struct):
    """Advisors that it brings."""

    register: list[Any] = []


class Gate(msgspec.Struct):
    """A capability behind a switch."""

    extension: str
    env_var: str
    kind: Literal["Boolean", "CargoFeature", "Allowlist"]
    risk: Literal["Low", "Medium", "High", "Critical"]
    effect: str
    hint: str = ""


class Gates(msgspec.Struct):
    """All of them."""

    gate: list[Gate] = []


class Ui(msgspec.Struct):
    """How its settings are shown."""

    fields: dict[str, Table] = {}


class Contracts(msgspec.Struct):
    """What it gives and takes."""

    provides: list[str] = []
    consumes: list[str] = []


class Meta(msgspec.Struct):
    """Who made it."""

    author: str | None = None
    license: str | None = None
    homepage: str | None = None
    repository: str | None = None


class Subscriptions(msgspec.Struct):
    """Topics of the broker."""

    broker_topics: list[str] = []


class Plugin(msgspec.Struct):
    """The table ``[plugin]``."""

    id: str
    version: str
    name: str
    description: str
    min_nexo_version: str
    enabled_by_default: bool = False
    entrypoint: Entrypoint | None = None
    requires: Requires | None = None
    channels: Channels | None = None
    extends: Extends | None = None
    tools: Tools | None = None
    capabilities: Capabilities | None = None
    supervisor: Supervisor | None = None
    sandbox: Sandbox | None = None
    config: Config | None = None
    config_schema: ConfigSchema | None = None
    agents: Agents | None = None
    skills: Skills | None = None
    advisors: Advisors | None = None
    capability_gates: Gates | None = None
    ui: Ui | None = None
    contracts: Contracts | None = None
    meta: Meta | None = None
    subscriptions: Subscriptions | None = None
    credentials_schema: Table | None = None
    pairing: Table | None = None
    dashboard: Table | None = None
    metrics: Table | None = None
    admin: Table | None = None
    admin_ui: Table | None = None
    http: Table | None = None
    http_server: Table | None = None
    public_tunnel: Table | None = None
    poller: Table | None = None


class Manifest(msgspec.Struct):
    """The whole file."""

    plugin: Plugin
    manifest_version: Literal[1, 2] = 1
