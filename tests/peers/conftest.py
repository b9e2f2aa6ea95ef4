"""Peers from npm, installed once into the tests' cache; without npm these tests are skipped loudly."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.conftest import PROCESS_LOOPS, Backend

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json", "acp_agent.mjs")
INSTALL_S = 150


@pytest.fixture(scope="module", params=PROCESS_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """Name the loop this test runs on."""
    backend: Backend = request.param
    return backend


def _cache() -> Path:
    """Return a folder of the user's cache whose name says what is installed there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    content = b"".join((HERE / name).read_bytes() for name in FILES)
    return Path(base, "anyio-bus-tests", hashlib.sha256(content).hexdigest()[:16])


def _install(cache: Path) -> str:
    """Install; return what went wrong. Whoever is second finds the folder there."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=cache.parent))
    try:
        for name in FILES:
            shutil.copy(HERE / name, folder)
        npm = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            npm, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
        if done.returncode:
            return done.stderr.strip()[-500:]
        try:
            folder.rename(cache)
        except OSError:
            if not cache.is_dir():
                raise
    except subprocess.TimeoutExpired:
        return f"npm did not end within {INSTALL_S} s"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


@pytest.fixture(scope="session")
def peers() -> Path:
    """Return the folder with the peers and their ``node_modules``."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"NOT TESTED against real peers: there is no {program}")
    cache = _cache()
    if not cache.is_dir():
        problem = _install(cache)
        if problem:
            pytest.skip(f"NOT TESTED against real peers: npm cannot install them: {problem}")
    return cache
