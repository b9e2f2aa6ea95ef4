"""Configuration is checked before anything starts, and every refusal names the field."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import anyio_bus
from anyio_bus._config import (
    BusConfig,
    Handshake,
    Limits,
    Pool,
    Probe,
    find_config,
    load_config,
)
from anyio_bus._errors import InvalidArgumentError

ECHO = {"id": "echo", "command": "echo-worker", "instances": 2}


def as_json(*pools: dict[str, Any], **more: Any) -> str:
    return json.dumps({"pools": list(pools or (ECHO,)), **more})


# -- pools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "args", "argv"),
    [
        ("worker", (), ("worker",)),
        ("worker", ["-v", "x y"], ("worker", "-v", "x y")),
        ("a worker", ["-v"], ("a worker", "-v")),
        (["worker", "-v"], (), ("worker", "-v")),
        (("worker",), ("-v",), ("worker", "-v")),
        ([Path("bin") / "worker", "-v"], [Path("x")], ("bin/worker", "-v", "x")),
        (Path("bin") / "worker", (), ("bin/worker",)),
        ("/opt/o'brien/worker", (), ("/opt/o'brien/worker",)),
    ],
)
def test_command_and_args_make_one_argv(command: Any, args: Any, argv: tuple[str, ...]) -> None:
    pool = Pool("p", command, args=args)

    assert pool.argv == argv
    assert (pool.command, pool.args) == (argv, ())


def test_a_program_whose_path_has_a_space_is_taken_if_it_exists(tmp_path: Path) -> None:
    program = tmp_path / "my worker"
    program.touch()

    assert Pool("p", str(program)).argv == (str(program),)


def test_file_names_that_are_no_text_are_taken() -> None:
    name = os.fsdecode(b"worker-\xff")

    assert Pool("p", [name], cwd=name, env={"A": name}).argv == (name,)


def test_the_working_directory_may_be_a_path() -> None:
    assert Pool("p", ["x"], cwd=Path("here")).cwd == "here"  # type: ignore[arg-type]


def test_a_pool_can_be_changed_and_comes_back_from_json_as_it_was() -> None:
    pool = Pool(
        "p", "worker", args=["-v"], env={"A": "1", "B": None}, ready=Handshake("initialize")
    )

    changed = msgspec.structs.replace(pool, instances=3)

    assert changed.instances == 3
    assert changed.argv == pool.argv
    assert msgspec.json.decode(msgspec.json.encode(pool), type=Pool) == pool


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", 5),
        ("command", ""),
        ("command", []),
        ("command", ["", "x"]),
        ("command", b"worker"),
        ("command", ["worker", 5]),
        ("command", "worker -v"),
        ("command", ["wor\0ker"]),
        ("command", ["wor\ud800ker"]),
        ("command", None),
        ("args", "-v"),
        ("args", [5]),
        ("instances", 0),
        ("instances", -1),
        ("instances", True),
        ("instances", 1.5),
        ("env", {"": "x"}),
        ("env", {"A=B": "x"}),
        ("env", {"A\0": "x"}),
        ("env", {"A": "x\0"}),
        ("env", {"A": "\ud800"}),
        ("env", {"A": 5}),
        ("env", ["A"]),
        ("cwd", 5),
        ("cwd", "a\0"),
        ("balance", "random"),
        ("max_in_flight", -1),
        ("envelope", "drop"),
        ("cancel", None),
        ("ready", "soon"),
        ("ready", Limits()),
        ("guard", 1),
    ],
)
def test_a_bad_field_of_a_pool_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"^Pool.*\.{field}(\[.+\])?: ") as caught:
        Pool(**{"id": "p", "command": ["worker"], field: value})

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"instances": 0}, "Pool('p').instances: must be greater than 0, not 0"),
        ({"nice": 50}, "Pool('p').nice: must be within -40 and 40, not 50"),
        (
            {"balance": "random"},
            "balance: must be one of 'least_busy', 'round_robin', not 'random'",
        ),
        ({"cancel": "lps"}, "cancel: must be one of 'lsp', 'mcp', 'acp', 'none', not 'lps'"),
        ({"collect": "all"}, "collect: must be one of 'text', None, not 'all'"),
        ({"ready": "soon"}, "ready: must be one of 'spawn', Handshake(...), not 'soon'"),
        ({"env": {"B": "b", "A": 1}}, "Pool('p').env['A']: Expected `str | null`, got `int`"),
        ({"env": {1: "a"}}, "Pool('p').env[1]: Expected `str`, got `int`"),
    ],
)
def test_the_refusal_of_a_field_says_whose_it_is_and_what_is_possible(
    options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Pool("p", "worker", **options)

    assert str(caught.value).endswith(problem)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda wrong: Pool("p", "x", instance=wrong), "Pool: .*'instance'.*mean 'instances'"),
        (lambda wrong: Limits(max_pendin=wrong), "Limits: .*'max_pendin'.*mean 'max_pending'"),
        (lambda wrong: Pool("p", "x", timeout=wrong), "Pool: .*'timeout'$"),
        (lambda _: Pool("p"), "Pool: Missing required argument 'command'"),
    ],
)
def test_an_argument_that_is_none_is_refused_by_class_with_what_was_meant(
    make: Any, problem: str
) -> None:
    with pytest.raises(TypeError, match=rf"^{problem}"):
        make(1)


def test_a_command_line_is_not_split_and_the_error_shows_how_to_write_it() -> None:
    with pytest.raises(InvalidArgumentError, match=r"write \['python', '-m', 'my worker'\]"):
        Pool("p", "python -m 'my worker'")


def test_an_argument_with_a_nul_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="must not contain NUL"):
        Pool("p", "worker", args=["a\0"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spares", -1),
        ("spares", 1.5),
        ("idle_timeout_s", -1),
        ("max_lifetime_s", math.nan),
        ("max_requests", -1),
        ("max_rss_bytes", -1),
        ("health", "ping"),
        ("user", ""),
        ("user", -1),
        ("user", True),
        ("groups", []),
        ("groups", ["staff", -1]),
        ("umask", 0o1000),
        ("umask", -1),
        ("umask", "08"),
        ("nice", 41),
        ("rlimits", {"cpu": -1}),
        ("rlimits", {"cpu": [1, 2, 3]}),
        ("rlimits", {"cpu": [2, 1]}),
        ("rlimits", {"cpu": [None, 1]}),
        ("spawn", "docker"),
    ],
)
def test_a_wrong_option_of_the_processes_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Pool("p", "worker", **{field: value})
    assert caught.value.field == field


def test_options_of_the_processes_have_one_form_inside() -> None:
    pool = Pool("p", "worker", umask="027", groups=["a", 1], rlimits={"cpu": 1, "core": [0, None]})
    plain: Any = {"ready": {"method": "hello"}, "health": {"method": "ping"}}

    assert (pool.umask, pool.groups) == (0o027, ("a", 1))
    assert pool.rlimits == {"cpu": (1, 1), "core": (0, None)}
    assert Pool("p", "worker", **plain) == Pool(
        "p", "worker", ready=Handshake("hello"), health=Probe("ping")
    )
    assert msgspec.structs.replace(pool, instances=2).rlimits == pool.rlimits


@pytest.mark.parametrize(
    "wrong", [{"method": ""}, {"every_s": 0}, {"timeout_s": -1}, {"params": []}]
)
def test_a_wrong_probe_names_its_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Probe(**{"method": "ping", **wrong})
    assert caught.value.field == next(iter(wrong))


def test_a_file_has_the_options_of_the_processes_too() -> None:
    pool = {"health": {"method": "ping"}, "umask": "027", "rlimits": {"as": None}, "groups": ["g"]}
    (read,) = BusConfig.from_json(as_json({**ECHO, **pool}), strict=True).pools

    assert read.health == Probe("ping")
    assert (read.umask, read.rlimits, read.groups) == (0o027, {"as": (None, None)}, ("g",))


def test_an_unknown_key_of_a_probe_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match=r"health\.every"):
        BusConfig.from_json(as_json({**ECHO, "health": {"method": "p", "every": 1}}), strict=True)


def test_presets_give_the_profiles_of_their_protocol_and_yield_to_options() -> None:
    mcp, acp = Pool.mcp("m", ["server"], spares=1), Pool.acp("a", "agent", args=["-x"])

    assert (mcp.cancel, mcp.ready, mcp.spares) == ("mcp", Handshake.mcp(), 1)
    assert (acp.cancel, acp.ready, acp.argv) == ("acp", Handshake.acp(), ("agent", "-x"))
    assert Pool.mcp("m", ["server"], cancel="none", ready="spawn").cancel == "none"
    mine = Handshake.acp(capabilities={"terminal": True}, name="me", version="7", timeout_s=1)
    assert mine.params["clientCapabilities"] == {"terminal": True}
    assert (mine.params["clientInfo"], mine.timeout_s) == ({"name": "me", "version": "7"}, 1)
    assert Handshake.mcp().params["clientInfo"]["version"] == anyio_bus.__version__


# -- handshakes and limits -----------------------------------------------------------------------


class Opaque:
    """Something that JSON has no form for."""


def endless() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    return loop


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", ""),
        ("method", None),
        ("method", "\ud800"),
        ("params", []),
        ("params", {"a": Opaque()}),
        ("params", endless()),
        ("then_notify", 5),
        ("then_notify", "\ud800"),
        ("timeout_s", 0),
        ("timeout_s", math.nan),
        ("timeout_s", "1"),
    ],
    ids=str,
)
def test_a_bad_field_of_a_handshake_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"^Handshake\.{field}: ") as caught:
        Handshake(**{"method": "initialize", field: value})

    assert caught.value.field == field


POSITIVE = [
    "max_frame_bytes",
    "max_output_bytes",
    "max_pending",
    "max_queued",
    "max_sessions",
    "restart_window_s",
    "start_attempts",
    "restart_delay_s",
    "restart_delay_max_s",
    "cancel_grace_s",
    "max_handlers",
    "stderr_tail_bytes",
]
NATURAL = [
    "max_restarts",
    "start_window_s",
    "stable_after_s",
    "park_retry_s",
    "drain_timeout_s",
    "backpressure_timeout_s",
]


def test_each_limit_is_either_positive_or_may_be_0() -> None:
    assert sorted([*POSITIVE, *NATURAL]) == sorted(Limits.__struct_fields__)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, 0) for field in POSITIVE],
        *[(field, -1) for field in [*POSITIVE, *NATURAL]],
        *[(field, math.nan) for field in [*POSITIVE, *NATURAL]],
        *[(field, "1") for field in [*POSITIVE, *NATURAL]],
    ],
)
def test_a_bad_limit_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"^Limits\.{field}: ") as caught:
        Limits(**{field: value})

    assert caught.value.field == field


@pytest.mark.parametrize("field", NATURAL)
def test_a_limit_that_may_be_0_takes_it(field: str) -> None:
    limits = Limits(**{field: 0})

    assert getattr(limits, field) == (30.0 if field == "drain_timeout_s" else 0)


def test_the_smallest_limits_are_taken() -> None:
    limits = Limits(max_frame_bytes=1, max_queued=1, restart_delay_s=1e-9)

    assert (limits.max_frame_bytes, limits.max_queued) == (1, 1)


# -- a whole configuration -----------------------------------------------------------------------


def test_pools_become_a_tuple() -> None:
    pool = Pool("p", ["x"])

    assert BusConfig([pool]).pools == (pool,)
    assert BusConfig([pool]).limits == Limits()


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("pools", [], "at least one"),
        ("pools", None, "list of Pool, got NoneType"),
        ("pools", Pool("p", ["x"]), "list of Pool, got Pool"),
        ("pools", iter([Pool("p", ["x"])]), "list of Pool, got list_iterator"),
        ("pools", "echo", "expected Pool, got str"),
        ("pools", [Pool("p", ["x"]), Pool("p", ["y"])], "'p' is used twice"),
        ("limits", {"max_pending": 1}, "expected Limits, got dict"),
    ],
    ids=str,
)
def test_a_bad_part_of_a_configuration_is_refused_by_name(
    field: str, value: Any, problem: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=problem) as caught:
        BusConfig(**{"pools": [Pool("p", ["x"])], field: value})

    assert caught.value.field == field


def test_a_json_document_uses_the_keys_of_the_existing_kernel() -> None:
    limits = {
        "max_input_buffer": 1,
        "max_output_queue": 2,
        "max_restarts": 3,
        "restart_window_sec": 4,
        "drain_timeout_sec": 5,
        "backpressure_timeout_sec": 6,
    }
    config = BusConfig.from_json(as_json(limits=limits), strict=True)

    assert config.pools == (Pool("echo", ["echo-worker"], instances=2),)
    assert config.limits == Limits(
        max_frame_bytes=1,
        max_output_bytes=2,
        max_restarts=3,
        restart_window_s=4,
        drain_timeout_s=5,
        backpressure_timeout_s=6,
    )


@pytest.mark.parametrize(
    "text", ["", "{", b"\xff", '"\ud800"', "[" * 200_000], ids=["", "{", "ff", "ud800", "deep"]
)
def test_what_is_not_json_is_refused(text: bytes | str) -> None:
    with pytest.raises(InvalidArgumentError, match="my config: not valid JSON"):
        BusConfig.from_json(text, source="my config")


@pytest.mark.parametrize("data", [[], "pools", None, {}, {"pools": {}}, {"pools": [5]}], ids=str)
def test_what_is_no_configuration_is_refused(data: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^config: "):
        BusConfig.from_mapping(data)


def test_a_bad_field_in_a_document_is_refused_with_its_path() -> None:
    text = as_json(ECHO, {**ECHO, "id": "other", "instances": 0})

    with pytest.raises(InvalidArgumentError, match=r"instances.*\$\.pools\[1\]") as caught:
        BusConfig.from_json(text)

    assert caught.value.field == "instances"


def test_a_bad_type_in_a_document_is_refused_with_its_path() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\$\.limits\.max_restarts"):
        BusConfig.from_json(as_json(limits={"max_restarts": "5"}))


UNKNOWN = [
    ({"colour": 1}, "$.colour"),
    ({"limits": {"max_pendng": 1}}, "$.limits.max_pendng"),
    ({"limits": {"max_frame_bytes": 1}}, "$.limits.max_frame_bytes"),
    ({"pools": [ECHO, {**ECHO, "id": "b", "instance": 1}]}, "$.pools[1].instance"),
    ({"pools": [{**ECHO, "ready": {"method": "m", "when": 1}}]}, "$.pools[0].ready.when"),
]


@pytest.mark.parametrize(("more", "key"), UNKNOWN, ids=[key for _, key in UNKNOWN])
def test_an_unknown_key_is_a_warning_that_names_it_and_an_error_if_strict(
    more: dict[str, Any], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"pools": [ECHO], **more}

    with caplog.at_level(logging.WARNING, "anyio_bus"):
        assert BusConfig.from_mapping(data, strict=False).pools[0].id == "echo"
    assert [record.getMessage() for record in caplog.records] == [
        f"config: unknown key {key} is ignored"
    ]
    assert BusConfig.from_json(json.dumps(data)).pools[0].id == "echo"
    with pytest.raises(InvalidArgumentError, match="unknown key") as caught:
        BusConfig.from_mapping(data)
    assert caught.value.field == key


def test_params_of_a_handshake_may_have_any_key() -> None:
    ready = {"method": "initialize", "params": {"anything": {"goes": 1}}}
    config = BusConfig.from_mapping({"pools": [{**ECHO, "ready": ready}]})

    assert config.pools[0].ready == Handshake("initialize", {"anything": {"goes": 1}})


@pytest.mark.parametrize(
    "transport",
    [{}, {"mode": "stdio"}, {"mode": "stdio", "framing": "ndjson", "protocol": "json"}],
    ids=str,
)
def test_the_transport_of_the_existing_kernel_is_taken_where_it_is_ours(
    transport: dict[str, Any],
) -> None:
    assert BusConfig.from_json(as_json(transport=transport), strict=True).pools[0].id == "echo"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mode", "tcp"),
        ("mode", "shm"),
        ("mode", ["stdio"]),
        ("mode", None),
        ("framing", "length"),
        ("protocol", "binary"),
        ("options", {"shm_name": "/x"}),
        ("options", None),
    ],
    ids=str,
)
def test_any_other_transport_is_refused_by_name_with_what_to_use(key: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"transport\.{key}=.*framing=ndjson") as caught:
        BusConfig.from_json(as_json(transport={key: value}))

    assert caught.value.field == f"transport.{key}"


def test_a_transport_must_be_an_object() -> None:
    with pytest.raises(InvalidArgumentError, match="transport: expected an object"):
        BusConfig.from_json(as_json(transport="stdio"))


# -- files ---------------------------------------------------------------------------------------

TOML = '[tool.anyio-bus]\npools = [{ id = "echo", command = "echo-worker", instances = 2 }]\n'


def test_json_and_toml_files_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "bus.json").write_text(as_json())
    (tmp_path / "bus.toml").write_text(TOML)

    assert load_config(tmp_path / "bus.json") == load_config(str(tmp_path / "bus.toml"))


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(InvalidArgumentError, match=str(path)):
            load_config(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[tool", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"", "has no .tool.anyio-bus. table"),
        (b"tool = 5", "has no .tool.anyio-bus. table"),
        (b"[tool]\nanyio-bus = 5", "expected|Expected"),
        (b"[tool.anyio-bus]\npools = []", "at least one"),
    ],
)
def test_a_toml_file_without_a_good_table_is_refused(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "bus.toml"
    path.write_bytes(content)

    with pytest.raises(InvalidArgumentError, match=problem):
        load_config(path)


def test_a_limit_that_is_not_a_number_in_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bus.toml").write_text(TOML + "limits = { stable_after_s = nan }\n")

    with pytest.raises(InvalidArgumentError, match="stable_after_s"):
        load_config(tmp_path / "bus.toml")


def test_a_strict_file_has_no_unknown_keys(tmp_path: Path) -> None:
    (tmp_path / "bus.json").write_text(as_json(colour=1))
    (tmp_path / "bus.toml").write_text(TOML + "colour = 1\n")
    for name in ("bus.json", "bus.toml"):
        assert load_config(tmp_path / name).pools[0].id == "echo"

        with pytest.raises(InvalidArgumentError, match="colour"):
            load_config(tmp_path / name, strict=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder below another one, with no configuration named by the environment."""
    monkeypatch.delenv("ANYIO_BUS_CONFIG", raising=False)
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    return inner


def test_the_nearest_configuration_is_found(folder: Path) -> None:
    (folder.parent / "anyio-bus.json").write_text(as_json({**ECHO, "id": "outer"}))
    assert find_config(folder).pools[0].id == "outer"

    (folder / "pyproject.toml").write_text(TOML)
    assert find_config(folder).pools[0].id == "echo"

    (folder / "anyio-bus.json").write_text(as_json({**ECHO, "id": "inner"}))
    assert find_config(folder).pools[0].id == "inner"


@pytest.mark.parametrize("content", ["", "[tool.other]\n", "tool = 5\n"])
def test_a_project_without_a_table_is_passed_over(folder: Path, content: str) -> None:
    (folder / "pyproject.toml").write_text(content)
    (folder.parent / "pyproject.toml").write_text(TOML)

    assert find_config(folder).pools[0].id == "echo"


def test_the_search_begins_in_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "anyio-bus.json").write_text(as_json())
    monkeypatch.chdir(folder)

    assert find_config().pools[0].id == "echo"


def test_the_environment_names_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "anyio-bus.json").write_text(as_json())
    (folder / "named.json").write_text(as_json({**ECHO, "id": "named"}))
    monkeypatch.setenv("ANYIO_BUS_CONFIG", str(folder / "named.json"))

    assert find_config(folder).pools[0].id == "named"


def test_a_named_file_that_is_missing_is_no_reason_to_search(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "anyio-bus.json").write_text(as_json())
    monkeypatch.setenv("ANYIO_BUS_CONFIG", str(folder / "missing.json"))

    with pytest.raises(InvalidArgumentError, match=r"missing\.json"):
        find_config(folder)


def test_without_any_configuration_the_error_shows_how_to_give_a_pool(folder: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="async with open_bus"):
        find_config(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="a symbolic link needs a privilege there")
def test_a_search_goes_up_from_where_a_link_leads(folder: Path) -> None:
    (folder.parent / "anyio-bus.json").write_text(as_json())
    link = folder.parent.parent / "link"
    link.symlink_to(folder, target_is_directory=True)

    assert find_config(link).pools[0].id == "echo"
