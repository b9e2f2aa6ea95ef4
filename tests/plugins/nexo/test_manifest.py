"""The manifest: what a plugin insists on, and all that the host would refuse."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from anyio_bus.plugins.nexo import (
    ManifestError,
    PluginAdapter,
    PluginError,
    ToolDef,
    adapter,
    lint_manifest,
    read_manifest,
)

MINIMAL = '[plugin]\nid = "demo"\nversion = "1.0.0"\n'
GOOD = """
manifest_version = 2
[plugin]
id = "demo"
version = "1.2.3-rc.1+build.5"
name = "Demo"
description = "A demo"
min_nexo_version = ">=0.1, <2.0"
enabled_by_default = true
[plugin.entrypoint]
command = "./run.sh"
args = ["-v"]
env = { DEMO = "1" }
[plugin.requires]
bins = ["ffmpeg"]
[[plugin.channels.register]]
kind = "demo"
adapter = "x"
[plugin.extends]
channels = ["demo_channel"]
tools = ["demo_add", "ext_demo_more"]
[plugin.tools]
expose = ["demo_add"]
deferred = ["demo_add"]
[[plugin.tools.outbound]]
name = "demo_add"
description = "Add"
input_schema = '{"type":"object"}'
[plugin.capabilities]
provides = ["tools", "channels"]
broker = { subscribe = ["a.>"], publish = ["b.*"] }
[plugin.supervisor]
respawn = true
[plugin.sandbox]
enabled = true
network = "host"
fs_read_paths = ["/etc"]
fs_write_paths = ["${state_dir}/x"]
[plugin.config]
schema_path = "schema.json"
[plugin.meta]
license = "MIT"
[plugin.poller]
anything = 1
"""


def edited(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_manifest_is_returned_whole() -> None:
    assert read_manifest(MINIMAL + "other = 1\n[more]\nx = 1\n") == {
        "plugin": {"id": "demo", "version": "1.0.0", "other": 1},
        "more": {"x": 1},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[plugin", "manifest parse failed: "),
        ("", r"no table \[plugin\]"),
        ("plugin = 5", r"no table \[plugin\]"),
        ("[plugin]", "plugin.id must be a text"),
        ("[plugin]\nid = 5", "plugin.id must be a text"),
        ('[plugin]\nid = ""', "plugin.id must be a text"),
        ('[plugin]\nid = "9x"', "plugin.id begins with a digit"),
        ('[plugin]\nid = "Demo"', "plugin.id has upper case"),
        ('[plugin]\nid = "a-b"', "plugin.id must match"),
        ('[plugin]\nid = "demo\\n"', "plugin.id must match"),  # 2.1: passes there
        (f'[plugin]\nid = "{"a" * 33}"', "plugin.id is longer than 32"),
        ('[plugin]\nid = "demo"', "plugin.version must be"),
        ('[plugin]\nid = "demo"\nversion = ""', "plugin.version must be"),
        ('[plugin]\nid = "demo"\nversion = 1', "plugin.version must be"),
    ],
)
def test_what_a_plugin_insists_on(text: str, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        read_manifest(text)
    with pytest.raises(ManifestError, match=said):
        PluginAdapter(manifest_toml=text)


def test_an_adapter_shows_its_manifest() -> None:
    assert PluginAdapter(manifest_toml=MINIMAL).manifest == read_manifest(MINIMAL)


@pytest.mark.parametrize(
    "extends",
    ["", "[plugin.extends]\n", "[plugin.extends]\ntools = 5\n", "[plugin.extends]\ntools = [5]\n"],
)
def test_tools_need_a_list_in_the_manifest(extends: str) -> None:
    tool = ToolDef("demo_add", "Add")
    with pytest.raises(ManifestError, match=r"\[plugin\.extends\]\.tools"):
        PluginAdapter(manifest_toml=MINIMAL + extends, tools=[tool])
    with pytest.raises(ManifestError, match=r"\[plugin\.extends\]\.tools"):
        PluginAdapter(manifest_toml=MINIMAL + extends).declare_tools([tool])
    document = read_manifest(MINIMAL + extends)
    assert adapter._manifest_extends_tools(document) is None


def test_a_tool_must_be_in_the_list() -> None:
    made = PluginAdapter(manifest_toml=MINIMAL + '[plugin.extends]\ntools = ["demo_a"]\n')

    assert made.declare_tools([ToolDef("demo_a", "A")]) is made
    with pytest.raises(ManifestError, match="does not list 'demo_b'"):
        made.declare_tools([ToolDef("demo_b", "B")])
    with pytest.raises(ManifestError, match="does not list 'demo_c'"):
        made.tool()(demo_c)
    with pytest.raises(PluginError, match="not JSON-serializable"):
        made.declare_tools([ToolDef("demo_a", "A", {"x": object()})])


def demo_c() -> None:
    """Do nothing."""


def test_dates_are_echoed_as_text_and_what_json_does_not_have_is_refused() -> None:
    """2.1: the first ends the process, the second is invalid JSON."""
    text = MINIMAL + "since = 2026-11-29\nat = 2026-11-29T01:02:03Z\nclock = 01:02:03\n"
    made = PluginAdapter(manifest_toml=text)
    shown = made._plugin.greeting()["manifest"]["plugin"]
    assert (shown["since"], shown["clock"]) == ("2026-11-29", "01:02:03")
    assert shown["at"] == "2026-11-29T01:02:03+00:00"

    with pytest.raises(ManifestError, match=r"plugin\.x\[0\]\.y is nan"):
        PluginAdapter(manifest_toml=MINIMAL + "x = [{ y = nan }]\n")


# -- what the host asks for ------------------------------------------------------------------------


def test_a_good_manifest_has_no_problems() -> None:
    assert lint_manifest(GOOD) == []
    assert read_manifest(GOOD, strict=True)["plugin"]["id"] == "demo"
    assert lint_manifest(read_manifest(GOOD)) == []


PROBLEMS = [
    ("manifest_version = 2", "manifest_version = 3", "manifest_version: Invalid enum value 3"),
    ("manifest_version = 2", "other = 2", "other is not known to the host"),
    ('"1.2.3-rc.1+build.5"', '"1.2"', "plugin.version is no semantic version: '1.2'"),
    ('name = "Demo"', 'name = " "', "plugin.name is blank"),
    ('name = "Demo"', "", "plugin.name is missing"),
    ('description = "A demo"', "description = 5", "plugin.description: Expected `str`, got `int`"),
    ('">=0.1, <2.0"', '"newest"', "plugin.min_nexo_version is no requirement"),
    ('id = "demo"', 'id = "De mo"', "plugin.id has upper case: 'De mo'"),
    ("DEMO =", "NEXO_X =", "plugin.entrypoint.env.NEXO_X: names that begin with NEXO_"),
    ('bins = ["ffmpeg"]', 'bin = ["x"]', "plugin.requires.bin is not known to the host"),
    ('kind = "demo"', 'kind = "De"', "plugin.channels.register[0].kind must match"),
    ('adapter = "x"', "", "plugin.channels.register[0].adapter is missing"),
    ('"demo_channel"', '"Channel"', "plugin.extends.channels: 'Channel' must match"),
    ('"demo_channel"', '"demo_add"', "plugin.extends.tools: 'demo_add' stands in"),
    ('"ext_demo_more"', '"more"', "plugin.extends.tools: 'more' must begin with 'demo_'"),
    ('expose = ["demo_add"]', 'expose = ["add"]', "plugin.tools.expose: 'add' must begin"),
    ('deferred = ["demo_add"]', 'deferred = ["demo_x"]', "plugin.tools.deferred: 'demo_x' is not"),
    ('name = "demo_add"', 'name = "demo_x"', "plugin.tools.outbound[0].name: 'demo_x' is not in"),
    ('{"type":"object"}', "{", "plugin.tools.outbound[0].input_schema is no JSON"),
    ('{"type":"object"}', "[]", "plugin.tools.outbound[0].input_schema must be a JSON object"),
    ('["tools", "channels"]', '["magic"]', "plugin.capabilities.provides: Invalid enum value"),
    ('["tools", "channels"]', '["agents"]', "plugin.capabilities.provides: 'agents' needs"),
    ("respawn = true", "stderr_tail_lines = 513", "plugin.supervisor.stderr_tail_lines must be"),
    ("respawn = true", "respawn = true\nmax_attempts = 0", "plugin.supervisor.max_attempts must"),
    ("respawn = true", "respawn = true\nbackoff_ms = 99", "plugin.supervisor.backoff_ms must be"),
    ('network = "host"', 'network = "all"', "plugin.sandbox.network: Invalid enum value 'all'"),
    ('["/etc"]', '["etc"]', "plugin.sandbox.fs_read_paths must be absolute: 'etc'"),
    ('["/etc"]', '["${state_dir}"]', "plugin.sandbox.fs_read_paths: ${state_dir} is for"),
    ('"schema.json"', '"../schema.json"', "plugin.config.schema_path must be relative"),
    ("[plugin.poller]\nanything = 1", "poller = 5", "plugin.meta.poller is not known to the host"),
    ("[plugin.meta]", "[plugin.other]", "plugin.other is not known to the host"),
    ("anything = 1", "anything = nan", "plugin.poller.anything is nan"),
    ('args = ["-v"]', "args = [1]", "plugin.entrypoint.args: Expected `str`, got `int`"),
]


@pytest.mark.parametrize(("old", "new", "said"), PROBLEMS, ids=[said[:50] for *_, said in PROBLEMS])
def test_what_the_host_would_refuse_is_named_by_its_key(old: str, new: str, said: str) -> None:
    problems = lint_manifest(edited(old, new))

    assert any(problem.startswith(said) for problem in problems), problems


def test_tables_and_lists_in_the_wrong_place_are_named() -> None:
    text = (
        MINIMAL + "entrypoint = 5\nchannels = { register = 5 }\ncapability_gates = { gate = [5] }"
    )

    problems = lint_manifest(text)

    assert "plugin.entrypoint must be a table" in problems
    assert "plugin.channels.register must be a list of tables" in problems
    assert "plugin.capability_gates.gate[0] must be a table" in problems


def test_a_variable_gates_one_thing() -> None:
    gate = (
        '[[plugin.capability_gates.gate]]\nextension = "x"\nenv_var = "X"\nkind = "Boolean"\n'
        'risk = "Low"\neffect = "e"\n'
    )
    said = "plugin.capability_gates.gate: env_var 'X' stands there twice"

    assert lint_manifest(GOOD + gate) == []
    assert lint_manifest(GOOD + gate * 2) == [said]


def test_all_problems_are_found_at_once() -> None:
    text = edited('name = "Demo"', "").replace("DEMO =", "NEXO_X =")

    with pytest.raises(ManifestError) as caught:
        read_manifest(text, strict=True)

    assert len(caught.value.problems) == 2
    assert str(caught.value) == "; ".join(caught.value.problems)
    again: Any = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems
    assert lint_manifest("[") == [str(ManifestError("")) + lint_manifest("[")[0]]
