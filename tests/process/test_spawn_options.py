"""How a process is started: user, groups, umask, nice, limits; and which spawner starts it."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import InvalidArgumentError, NotSupportedError, Pool, WorkerStartError, open_bus
from anyio_bus._io.spawners import open_spawner
from tests.process.kit import FAST, SED, patience

# Written in shell: any user can run it, wherever the Python of these tests is installed.
MIRROR = r"""
while read -r line; do
  id=$(echo "$line" | sed -E 's/.*"id":([0-9]+).*/\1/')
  printf '{"id":%s,"result":{"uid":%s,"gid":%s,"groups":"%s",' "$id" "$(id -u)" "$(id -g)" "$(id -G)"
  printf '"umask":"%s","nice":%s,' "$(umask)" "$(nice)"
  printf '"soft":"%s","hard":"%s"}}\n' "$(ulimit -Sn)" "$(ulimit -Hn)"
done
"""
NOBODY = "nobody"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux's")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can change the user")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may do it")


async def look(**options: Any) -> dict[str, Any]:
    """Return what a worker with these options finds itself to be."""
    async with open_bus(Pool("m", ["sh", "-c", MIRROR], cwd="/", **options)) as bus:
        with patience():
            return await bus.request("look", reply=dict[str, Any])


async def test_umask_niceness_and_limits_are_set() -> None:
    plain = await look()
    found = await look(umask="027", nice=3, rlimits={"nofile": [200, 300], "core": 0})
    assert int(found["umask"], 8) == 0o027
    assert found["nice"] == plain["nice"] + 3
    assert (found["soft"], found["hard"]) == ("200", "300")
    assert (found["uid"], found["groups"]) == (plain["uid"], plain["groups"])


@as_root
async def test_a_user_brings_its_own_groups() -> None:
    entry = pwd.getpwnam(NOBODY)
    found = await look(user=NOBODY, nice=-2)
    assert (found["uid"], found["gid"]) == (entry.pw_uid, entry.pw_gid)
    assert {int(group) for group in found["groups"].split()} == set(
        os.getgrouplist(NOBODY, entry.pw_gid)
    )


@as_root
async def test_groups_may_be_given_by_name_and_by_id() -> None:
    group = grp.getgrall()[-1]
    found = await look(user=12345, groups=[group.gr_name, 4242])
    assert (found["uid"], found["gid"]) == (12345, group.gr_gid)
    assert {int(g) for g in found["groups"].split()} == {group.gr_gid, 4242}


HOST = """
import anyio, anyio_bus

async def main():
    async with anyio_bus.open_bus(anyio_bus.Pool("m", ["sleep", "1000"], cwd="/", user="nobody")) as bus:
        await bus.wait_ready()
        print(bus.workers()[0].pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@as_root
@linux_only
async def test_a_worker_of_another_user_still_dies_with_its_parent() -> None:
    """The system forgets PDEATHSIG when the user changes: it must be set after that."""
    async with await anyio.open_process([sys.executable, "-c", HOST], stderr=None) as host:
        assert host.stdout is not None
        with patience():
            pid = int(await host.stdout.receive())
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{pwd.getpwnam(NOBODY).pw_uid}\t" in status
        fd = os.pidfd_open(pid)
        try:
            host.kill()
            with patience():
                await anyio.wait_readable(fd)
        finally:
            os.close(fd)


async def test_what_the_system_refuses_is_named_and_parks_the_worker() -> None:
    """A hard limit above our own passes the check as root; the shim meets what is left."""
    pool = Pool("m", SED, rlimits={"nofile": 2**40})
    if os.geteuid() != 0:
        with pytest.raises(InvalidArgumentError, match="only root"):
            open_spawner([pool])
        return
    async with open_bus(pool, limits=FAST) as bus:
        with patience(), pytest.raises(WorkerStartError, match="rlimits: ") as caught:
            await bus.request("echo")
        assert (caught.value.phase, caught.value.permanent) == ("spawn", True)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"user": "no-such-user"}, "user"),
        ({"user": 54321}, "user"),
        ({"groups": ["no-such-group"]}, "groups"),
        ({"rlimits": {"no_such_limit": 1}}, "rlimits"),
        ({"rlimits": {"NOFILE": 1}}, "rlimits"),
    ],
)
async def test_what_is_not_on_this_system_is_refused_before_anything_starts(
    options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"Pool\('m'\)\.{field}") as caught:
        async with open_bus(Pool("other", SED), Pool("m", SED, **options)):
            pytest.fail("it opened")
    assert caught.value.field == field


@as_user
@pytest.mark.parametrize(
    ("options", "field"),
    [({"user": 0, "groups": [0]}, "user"), ({"groups": [0]}, "groups"), ({"nice": -1}, "nice")],
)
async def test_what_needs_root_is_refused_without_it(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError, match="root"):
        async with open_bus(Pool("m", SED, **options)):
            pytest.fail("it opened")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"user": 0}, "user"),
        ({"groups": [0]}, "groups"),
        ({"umask": 0}, "umask"),
        ({"nice": 1}, "nice"),
        ({"rlimits": {"core": 0}}, "rlimits"),
    ],
)
async def test_the_portable_spawner_refuses_by_name_what_it_cannot_do(
    options: dict[str, Any], field: str
) -> None:
    pool = Pool("m", SED, spawn="portable", **options)
    with pytest.raises(NotSupportedError, match=rf"Pool\('m'\)\.{field}: the portable spawner"):
        async with open_bus(pool):
            pytest.fail("it opened")


async def test_each_pool_has_the_spawner_that_it_asks_for() -> None:
    pools = [Pool("own", SED, spawn="posix"), Pool("none", SED, spawn="portable")]
    async with open_bus(*pools) as bus:
        pids = {}
        for info in bus.workers():
            assert info.pid is not None
            with patience():
                assert await bus.request("echo", pool=info.pool) == {}
            pids[info.pool] = info.pid
        assert os.getpgid(pids["own"]) == pids["own"]
        assert os.getpgid(pids["none"]) == os.getpgrp()
