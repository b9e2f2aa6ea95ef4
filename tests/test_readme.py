"""The Python examples of the README run, top to bottom, in one namespace."""

from __future__ import annotations

from pathlib import Path

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

README = Path(__file__).parent.parent / "README.md"


def test_examples_of_the_readme_run() -> None:
    examples = list(Sybil([PythonCodeBlockParser(), SkipParser()]).parse(README).examples())

    for example in examples:
        example.evaluate()

    assert examples
