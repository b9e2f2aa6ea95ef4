"""Own the arguments of every command; it loads only argparse, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Sequence
from typing import TypeAlias

from anyio_bus import __version__
from anyio_bus.cli._exits import EXIT_CODES

__all__ = ("Arguments", "parse")

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

LOOPS = ("asyncio", "trio")
WORKERS = ("echo",)
PROJECTS = ("nexo-plugin",)
DEFAULT_IN_FLIGHT = (
    256  # requests at once: enough to keep pools busy, little enough to hold in memory
)
DEFAULT_TIMEOUT_S = 60.0
DEFAULT_EVERY_S = 1.0

_RUN_HELP = """\
Each line of stdin is one request:

  {"jsonrpc":"2.0","id":1,"method":"echo","params":{"message":"hello"}}
  {"id":2,"method":"echo","pool":"tools"}     "pool" says where it goes, and is taken out
  echo {"message": "hello"}                   short form: METHOD, JSON params; ids count from 1

Requests run side by side, so answers come in the order in which they are ready. An answer is one
line of JSON, or easier to read if stdout is a terminal. What goes wrong on the way is answered
with a JSON-RPC error, code -32050 and so on, with the facts in its data. A line without an id is a
notification, and gets no answer. At the end of stdin what is pending is finished.
"""

_REQUEST_EXAMPLE = """\
example:
  anyio-bus request "python -m anyio_bus.testing.workers.echo" echo '{"message": "hello"}'
"""

_SERVE_HELP = """\
Becomes anyio-busd, in the foreground, with its log on stderr; Ctrl-C lets what is in flight finish.
`anyio-busd --help` has all options.
"""

_TAIL_HELP = """\
URL is an admin listener (--admin-unix). What is named like a secret is hidden.
"""

_CHECK_HELP = """\
Reads a JSON file, or the [tool.anyio-bus] table of a TOML file, and lists its pools. Unknown keys
are errors here. Nothing is started.
"""

_RUN_CODES = """\
exit codes:
  0    stdin was read to its end; what went wrong with a request is in its answer
  2    wrong use: the arguments, or a configuration file (the message names file and field)
  130  interrupted by Ctrl-C, after a clean stop (143: by SIGTERM)
  141  whoever read the output went away
"""

_CHECK_CODES = """\
exit codes:
  0  it is valid, and the program of each pool is there
  1  it is valid, but the program of a pool is not found on this machine
  2  it is not valid: the message names file and field
"""


_MIGRATE_HELP = """\
Rewrites `from stdiobus import X`, `import stdiobus`, `import stdiobus as s` and the imports of its
modules, and those of `nexo_plugin_sdk` (nexoai), in a file or in all Python files of a folder (not
in hidden folders nor environments), and keeps everything else as it is. Without --write it shows
the differences and changes nothing. What it cannot rewrite it names with file, line and reason.
"""

_MIGRATE_CODES = """\
exit codes:
  0  every import is rewritten, or there was none
  1  something is left to you: each place is named on stderr
  2  wrong use: there is no such file or folder
"""

_NEW_HELP = """\
Writes a plugin for nexo hosts that works as it is: manifest, program, tests and README. The folder
is made where it is missing, and must be empty.
"""

_NEW_CODES = """\
exit codes:
  0  all files are written; stdout names them
  1  the folder cannot be written
  2  wrong use: the folder is not empty, or the id is none
"""

_BUILD_HELP = """\
Compiles the kernel in C, whose sources come with every install, into this install: the extension
module for backend="native", and the daemon anyio-busd. It needs a C compiler, cffi and Python's
headers; without the headers it builds the daemon alone, and says what to install. The compiler is
that of --compiler, else of $CC, else cc, gcc or clang, else `python -m ziglang cc` (pip install
ziglang). What is there already and works is left as it is. Tested on Linux; not for Windows.
"""

_BUILD_CODES = """\
exit codes:
  0    both parts are there and work
  1    one is not: stderr says why, and how to get what is missing
  2    wrong use: the compiler that was named is no program
  130  interrupted by Ctrl-C (143: by SIGTERM); nothing has changed
"""


_PACK_HELP = """\
Makes one .tar.gz of the folder of a nexo plugin, the packages that it depends on, and a launcher
that takes the place of its program. The dependencies are those of [project] in pyproject.toml, else
of requirements.txt; pip installs them, from wheels only where the target is not this machine's. For
this machine's target the packed plugin is started and ended once, as a host does it.

Left out, and named on stderr: hidden files, tests, caches, environments, build and dist, links, and
what may be a secret, such as *.env and *.key.

A target is a CPython, cp311 or later, and one of
  x86_64-unknown-linux-gnu   aarch64-unknown-linux-gnu    glibc 2.28
  x86_64-unknown-linux-musl  aarch64-unknown-linux-musl   musl 1.2
  x86_64-apple-darwin        aarch64-apple-darwin         macOS 13

examples:
  anyio-bus pack my_plugin
  anyio-bus pack my_plugin --target cp313-aarch64-unknown-linux-gnu -- --find-links wheels
"""

_PACK_CODES = """\
exit codes:
  0    the archive is there; stdout names it
  1    it failed: pip, or the packed plugin does not start; there is no archive
  2    wrong use: the arguments, the manifest or the list of dependencies
  130  interrupted by Ctrl-C (143: by SIGTERM); there is no archive
"""


class Arguments(argparse.Namespace):
    """What was given on the command line."""

    command: str
    loop: str | None = None
    workers: int
    config: str
    strict: bool
    in_flight: int
    timeout: float | None
    verbose: bool = False
    tap: str | None = None
    pool_command: str
    method: str
    params: str | None
    name: str
    path: str
    write: bool = False
    kind: str
    folder: str
    id: str | None = None
    compiler: str | None = None
    check: bool = False
    force: bool = False
    unix: list[str] | None = None
    tcp: list[str] | None = None
    admin_unix: list[str] | None = None
    token_file: str | None = None
    url: str
    once: bool = False
    every: float
    pool: str | None = None
    target: str | None = None
    output: str | None = None
    start: bool = True
    pip: Sequence[str] = ()


def _every(text: str) -> float:
    seconds = _seconds(text)
    if seconds is None:
        msg = "must be seconds, and come to an end"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        msg = f"must be a number, 1 or more, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        msg = f"must be seconds, more than 0 ('inf' for no limit), not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return None if math.isinf(seconds) else seconds


def parse(argv: Sequence[str] | None) -> Arguments:
    """Parse the arguments; None stands for those of this process."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = Arguments()
    if words[:1] == ["pack"] and "--" in words:  # what follows is for pip
        at = words.index("--")
        arguments.pip = words[at + 1 :]
        del words[at:]
    return build_parser().parse_args(words, arguments)


def build_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog="anyio-bus",
        description="Pools of worker processes that speak JSON-RPC on stdin and stdout.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    python = f"Python {platform.python_version()}"
    parser.add_argument(
        "--version", action="version", version=f"anyio-bus {__version__} ({python})"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_run(commands)
    _add_request(commands)
    _add_serve(commands)
    _add_top(commands)
    _add_tail(commands)
    _add_check(commands)
    _add_doctor(commands)
    _add_build_native(commands)
    _add_migrate(commands)
    _add_new(commands)
    _add_pack(commands)
    _add_worker(commands)
    return parser


def _add(
    commands: _Commands, name: str, text: str, *, more: str = "", codes: str = EXIT_CODES
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.\n\n{more}".rstrip(),
        epilog=codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_demo(commands: _Commands) -> None:
    text = "show a pool of real workers: answers, a killed worker, a cancelled request, the stop"
    demo = _add(commands, "demo", text)
    demo.add_argument(
        "--loop", choices=LOOPS, help="the event loop (default: both, one after the other)"
    )
    demo.add_argument(
        "--workers", type=_positive, default=2, metavar="N", help="worker processes (default: 2)"
    )


def _add_run(commands: _Commands) -> None:
    run = _add(
        commands,
        "run",
        "send requests from stdin to pools, print the answers",
        more=_RUN_HELP,
        codes=_RUN_CODES,
    )
    run.add_argument(
        "--config",
        metavar="FILE",
        help="JSON, or TOML with [tool.anyio-bus] (default: $ANYIO_BUS_CONFIG, else the nearest "
        "anyio-bus.json or pyproject.toml with that table)",
    )
    run.add_argument("--strict", action="store_true", help="make an unknown key of FILE an error")
    run.add_argument(
        "--in-flight",
        type=_positive,
        default=DEFAULT_IN_FLIGHT,
        metavar="N",
        help="requests at once; beyond that stdin is left unread (default: %(default)s)",
    )
    run.add_argument(
        "--tap",
        metavar="FILE",
        help="record what goes through the pipes of the workers, secrets hidden, as lines of JSON",
    )
    _add_timeout(run)
    _add_loop(run)
    _add_verbose(run)


def _add_request(commands: _Commands) -> None:
    text = "start one worker, send it one request, print the result"
    request = _add(commands, "request", text, more=_REQUEST_EXAMPLE)
    request.add_argument(
        "pool_command",
        metavar="POOL-COMMAND",
        help="the worker's command line, split as a shell would",
    )
    request.add_argument("method", metavar="METHOD", help="the method")
    request.add_argument(
        "params",
        metavar="JSON",
        nargs="?",
        help="the params, a JSON object or array (default: none)",
    )
    _add_timeout(request)
    _add_loop(request)
    _add_verbose(request)


def _add_serve(commands: _Commands) -> None:
    text = "run the daemon: pools that several programs share"
    serve = _add(commands, "serve", text, more=_SERVE_HELP)
    serve.add_argument(
        "--config",
        metavar="FILE",
        help="JSON (default: $ANYIO_BUS_CONFIG, else the nearest anyio-bus.json)",
    )
    serve.add_argument("--strict", action="store_true", help="make an unknown key of FILE an error")
    serve.add_argument("--unix", metavar="PATH", action="append", help="listen on a socket file")
    serve.add_argument("--tcp", metavar="HOST:PORT", action="append", help="listen on TCP")
    serve.add_argument(
        "--admin-unix", metavar="PATH", action="append", help="a socket file for admins, mode 0600"
    )
    serve.add_argument("--token-file", metavar="PATH", help="what TCP clients have to show")
    serve.add_argument("-v", "--verbose", action="store_true", help="log more")


def _add_daemon(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", metavar="URL", help="unix:///path or tcp://host:port; a path is a socket file"
    )
    parser.add_argument("--token-file", metavar="PATH", help="a file with the token for TCP")


def _add_top(commands: _Commands) -> None:
    top = _add(commands, "top", "show the workers of a running daemon, again and again")
    _add_daemon(top)
    top.add_argument("--once", action="store_true", help="once, and end")
    top.add_argument(
        "--every",
        type=_every,
        default=DEFAULT_EVERY_S,
        metavar="S",
        help="seconds between two looks (default: %(default)g)",
    )


def _add_tail(commands: _Commands) -> None:
    text = "show what goes through the pipes of a running daemon's workers"
    tail = _add(commands, "tail", text, more=_TAIL_HELP)
    _add_daemon(tail)
    tail.add_argument("--pool", metavar="POOL", help="only this pool")


def _add_doctor(commands: _Commands) -> None:
    text = "say what this machine can do, by trying each backend"
    _add(commands, "doctor", text)


def _add_build_native(commands: _Commands) -> None:
    text = "compile the parts in C into this install"
    build = _add(commands, "build-native", text, more=_BUILD_HELP, codes=_BUILD_CODES)
    build.add_argument("--compiler", metavar="CC", help="the C compiler, with arguments if need be")
    build.add_argument(
        "--check", action="store_true", help="build nothing: say what is there and what is missing"
    )
    build.add_argument("--force", action="store_true", help="build what is there already as well")


def _add_check(commands: _Commands) -> None:
    check = _add(
        commands, "check", "validate a configuration file", more=_CHECK_HELP, codes=_CHECK_CODES
    )
    check.add_argument("config", metavar="CONFIG", help="the file")


def _add_migrate(commands: _Commands) -> None:
    text = "rewrite the imports of a program that uses stdiobus or nexoai"
    migrate = _add(commands, "migrate", text, more=_MIGRATE_HELP, codes=_MIGRATE_CODES)
    migrate.add_argument("path", metavar="PATH", help="a Python file, or a folder")
    migrate.add_argument("--write", action="store_true", help="change the files")


def _add_new(commands: _Commands) -> None:
    new = _add(
        commands, "new", "write a project that works as it is", more=_NEW_HELP, codes=_NEW_CODES
    )
    new.add_argument("kind", choices=PROJECTS, help="what it is to be")
    new.add_argument("folder", metavar="DIR", help="where it goes")
    new.add_argument("--id", metavar="ID", help="its id (default: the name of the folder)")


def _add_pack(commands: _Commands) -> None:
    text = "make the archive of a nexo plugin, with its dependencies"
    pack = _add(commands, "pack", text, more=_PACK_HELP, codes=_PACK_CODES)
    pack.usage = (
        "%(prog)s [-h] [--target TARGET] [--output PATH] [--no-check] DIR [-- PIP-OPTION ...]"
    )
    pack.add_argument("folder", metavar="DIR", help="the folder with nexo-plugin.toml")
    pack.add_argument(
        "--target", metavar="TARGET", help="what it is for (default: this Python on this machine)"
    )
    pack.add_argument(
        "--output",
        metavar="PATH",
        help="the archive, or the folder for it (default: ID-VERSION-TARGET.tar.gz, here)",
    )
    pack.add_argument(
        "--no-check", dest="start", action="store_false", help="do not start the packed plugin"
    )


def _add_worker(commands: _Commands) -> None:
    text = "be a worker: speak JSON-RPC on this stdin and stdout"
    worker = _add(commands, "worker", text)
    worker.add_argument("name", choices=WORKERS, help="which one")


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT_S,
        metavar="S",
        help="seconds for an answer, 'inf' for no limit (default: %(default)g)",
    )


def _add_loop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--loop", choices=LOOPS, default="asyncio", help="the event loop (default: %(default)s)"
    )


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="log to stderr, what workers write there included",
    )
