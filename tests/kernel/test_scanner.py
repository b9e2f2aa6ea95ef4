"""The C scanner and the decoder of the Python kernel take the same lines, and see the same in them.

Known differences, none of which the inputs here come near: lines nested deeper than the scanner's
512 levels, which Python takes up to its recursion limit; floats of some 800 digits a hair below
what is out of range. Ids are compared by the exact value here, and as floats there.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from anyio_bus._sansio.codec import decode_block, salvage_id
from anyio_bus._sansio.messages import BadLine, Message

KERNEL = Path(__file__).parents[2] / "kernel"
CORPUS = sorted((KERNEL / "fuzz" / "corpus" / "scan").iterdir())
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)

ABSENT, NUMBER, STRING = 0, 3, 4
BATCH = 12  # lines for each run of the program, at most

few = settings(deadline=None, max_examples=50)

Scan = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def scan() -> Scan:
    """Build the program that prints what the scanner finds, and return what runs it."""
    if COMPILER is None or shutil.which("make") is None:
        pytest.skip("NOT TESTED: the C kernel needs a C compiler and make, and there is none here")
    made = subprocess.run(
        ["make", "-C", str(KERNEL), "build/scan_lines"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr

    def run(lines: Iterable[bytes], *arguments: str) -> list[dict[str, Any]]:
        data = b"".join(line + b"\n" for line in lines)
        program = [str(KERNEL / "build" / "scan_lines"), *arguments]
        done = subprocess.run(program, input=data, capture_output=True, check=True, timeout=60)
        found = done.stdout.decode().removesuffix("\n").split("\n")
        return [json.loads(line, parse_float=str, parse_int=str) for line in found]

    return run


def seen_by_python(line: bytes) -> tuple[str, object, object, object]:
    """Say what a line is to the Python kernel: its role, id, method and session."""
    items = decode_block(line + b"\n")
    if not items:
        return ("blank", None, None, None)
    assert len(items) == 1
    item = items[0]
    if isinstance(item, BadLine):
        return ("bad", None, None, None)
    assert isinstance(item, Message)
    role = "response"
    if item.method is not UNSET:
        role = "notification" if item.id is UNSET else "request"
    method = None if item.method is UNSET else item.method
    session = None if item.session is UNSET else item.session
    return (role, as_id(item.id), method, session)


def as_id(key: object) -> object:
    """Tell ids apart by type as well."""
    return "absent" if key is UNSET else (type(key), key)


def id_seen_by_scanner(found: dict[str, Any]) -> object:
    """Read the id as Python reads it: an int where it is spelt as one, else a float."""
    kind, raw = int(found["id_kind"]), found["id"]  # numbers come as they are spelt
    if kind == ABSENT:
        return "absent"
    if kind == NUMBER:
        return as_id(float(raw) if {".", "e", "E"} & set(raw) else int(raw))
    return as_id(raw)


def seen_by_scanner(found: dict[str, Any]) -> tuple[str, object, object, object]:
    """Say what a line is to the scanner, in the words of :func:`seen_by_python`."""
    if found["role"] == "blank":
        return ("blank", None, None, None)
    if not found["ok"]:
        return ("bad", None, None, None)
    return (found["role"], id_seen_by_scanner(found), found["method"], found["session"])


def check_same(scan: Scan, lines: list[bytes]) -> None:
    """Compare what both see in each line."""
    found = scan(lines)
    assert len(found) == len(lines)
    for line, one in zip(lines, found, strict=True):
        assert seen_by_scanner(one) == seen_by_python(line), line[:300]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_both_see_the_same_in_the_corpus(scan: Scan, path: Path) -> None:
    check_same(scan, path.read_bytes().split(b"\n"))


def test_both_see_the_same_in_every_prefix_and_with_every_byte_changed(scan: Scan) -> None:
    line = (
        b'{"jsonrpc":"2.0","id":1.5e1,"method":"a\\u00e9\\ud83d\\ude00","params":'
        b'{"x":[true,null,-0.1,"\\n"]},"sessionId":"\xc3\xa9"}'
    )
    lines = [line[:at] for at in range(len(line))]
    for at in range(len(line)):
        lines += [line[:at] + bytes([new]) + line[at + 1 :] for new in range(256) if new != 10]
        lines += [line[:at] + line[at + 1 :], line[:at] + line[at : at + 1] + line[at:]]

    check_same(scan, lines)


def test_both_see_the_same_in_corpus_lines_with_faults(scan: Scan) -> None:
    rng = random.Random(20_240_601)
    corpus = [line for path in CORPUS for line in path.read_bytes().split(b"\n") if len(line) < 400]
    tokens = [bytes([byte]) for byte in b'"\\{}[],: 019-.eEtu\x00\x1f\x7f\x80\xc3\xff']
    tokens += [b"\\u", b"\\ud83d", b"\\udc00", b'"id":', b"null"]
    lines = []
    for _ in range(30_000):
        line = rng.choice(corpus)
        for _ in range(rng.randint(1, 3)):
            new = rng.choice([b"", rng.choice(tokens), rng.randbytes(1)])
            at = rng.randint(0, len(line))
            line = line[:at] + new + line[at + rng.randint(0, 2) :]
        lines.append(line.replace(b"\n", b" "))

    check_same(scan, lines)


# -- generated lines -------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(
    ["jsonrpc", "id", "method", "params", "result", "error", "sessionId", "pool", "x"]
)
spaces = st.sampled_from(["", "", "", " ", "\t", "\r ", "  "])
odd_values = st.sampled_from(
    [
        *("01", "-", "1.", ".5", "1e", "1e+", "-01", "1e400", "1.8e308", "0e999", "1e-999"),
        *("nul", "truex", "NaN", "[1,]", "{1:2}", "-0.0", "1E2"),
        *('"\\ud800"', '"\\udc00\\ud800"', '"\\q"', '"\\u00"', '"\x01"', '"\x7f"', '"\\u0000"'),
    ]
)


def escape_all(text: str) -> str:
    """Spell a string with nothing but escapes."""
    units = text.encode("utf-16-be", "surrogatepass").hex()
    return '"' + "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)) + '"'


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Make an object of members with the names that matter, spelt in one way or another."""
    members = []
    for name in draw(st.lists(names, max_size=6)):
        ascii_only = draw(st.booleans())
        value = json.dumps(
            draw(scalars if name in ("id", "method", "sessionId") else values),
            ensure_ascii=ascii_only,
        )
        if name in ("method", "sessionId") and draw(st.integers(0, 9)):
            value = json.dumps(draw(st.text(max_size=8)), ensure_ascii=ascii_only)
        if draw(st.integers(0, 19)) == 0:
            value = draw(odd_values)
        spelt = escape_all(name) if draw(st.integers(0, 9)) == 0 else f'"{name}"'
        members.append(f"{draw(spaces)}{spelt}{draw(spaces)}:{draw(spaces)}{value}{draw(spaces)}")
    return ("{" + ",".join(members) + "}").encode("utf-8", "surrogatepass")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Change a few bytes of an object."""
    line = draw(objects())
    for _ in range(draw(st.integers(0, 3))):
        at, count = draw(st.integers(0, len(line))), draw(st.integers(0, 4))
        new = draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from(
                    [
                        b'"',
                        b"\\",
                        b"{",
                        b"}",
                        b"[",
                        b"]",
                        b",",
                        b":",
                        b"\\u",
                        b"\xc3",
                        b"\xed\xa0\x80",
                    ]
                ),
            )
        )
        line = line[:at] + new + line[at + count :]
    return line.replace(b"\n", b" ")


@few
@given(st.lists(objects(), min_size=1, max_size=BATCH))
def test_both_see_the_same_in_objects(scan: Scan, lines: list[bytes]) -> None:
    check_same(scan, [line.replace(b"\n", b" ") for line in lines])


@few
@given(st.lists(mutated(), min_size=1, max_size=BATCH))
def test_both_see_the_same_in_objects_with_faults(scan: Scan, lines: list[bytes]) -> None:
    check_same(scan, lines)


number_texts = st.one_of(
    st.from_regex(r"-?[0-9]{1,25}(\.[0-9]{0,6})?([eE][+-]?[0-9]{0,4})?", fullmatch=True),
    st.from_regex(r"-?1\.79769313486231[0-9]{0,30}e308", fullmatch=True),
    st.integers(0, 12).map(lambda n: f"{2**1024 - 2**970 - n}.0"),
)


@few
@given(st.lists(number_texts, min_size=1, max_size=BATCH))
def test_both_take_the_same_numbers_for_ids(scan: Scan, numbers: list[str]) -> None:
    check_same(scan, [b'{"method":"m","id":%b}' % number.encode() for number in numbers])


# -- lines of which only the ends are there --------------------------------------------------------


@st.composite
def ends(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Cut a line, well formed or not, into what is kept of it."""
    line = draw(mutated()).replace(b"\0", b" ")
    tail = draw(st.sampled_from([b"", b',"id":7}', b' , "id" : "a" ,"jsonrpc":"2.0" } ', b"}"]))
    line = line[:-1] + tail if draw(st.booleans()) else line + tail
    return line[: draw(st.integers(0, len(line)))], line[draw(st.integers(0, len(line))) :]


@few
@given(st.lists(ends(), min_size=1, max_size=BATCH))
def test_both_salvage_the_same_id(scan: Scan, pairs: list[tuple[bytes, bytes]]) -> None:
    found = scan([prefix + b"\0" + suffix for prefix, suffix in pairs], "salvage")

    for (prefix, suffix), one in zip(pairs, found, strict=True):
        wanted = salvage_id(prefix, suffix + b"\n")
        assert one["none"] == (wanted is None)
        got = id_seen_by_scanner(one)
        assert got == as_id(wanted) or (wanted is None and got == "absent"), (prefix, suffix)
