"""Own how the options of a pool's processes are checked, and how they reach the exec shim.

Names become numbers here, in this process and before anything starts; the shim applies them between
fork and exec, in the order in which they stand.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from anyio_bus._errors import InvalidArgumentError, NotSupportedError

if TYPE_CHECKING:
    from anyio_bus._config import Pool

__all__ = ("check_launch", "launch_options")

_OPTIONS = ("user", "groups", "umask", "nice", "rlimits")
_UNLIMITED = -1  # what the system's RLIM_INFINITY is to Python


def _fail(pool: Pool, field: str, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"Pool({pool.id!r}).{field}: {problem}", field=field)


def check_launch(pool: Pool, spawner: str) -> None:
    """Refuse what this spawner, this system or this user cannot do.

    Raises:
        NotSupportedError: The spawner, or this system, has no such option.
        InvalidArgumentError: An option names what is not there, or needs root.
    """
    asked = [name for name in _OPTIONS if getattr(pool, name) not in (None, 0, {})]
    if pool.umask == 0:
        asked.append("umask")
    if pool.user == 0:
        asked.append("user")
    if asked and (spawner != "posix" or not sys.executable):
        msg = f"Pool({pool.id!r}).{asked[0]}: the {spawner} spawner cannot set it"
        raise NotSupportedError(msg)
    if pool.max_rss_bytes and not os.path.exists("/proc/self/statm"):
        msg = f"Pool({pool.id!r}).max_rss_bytes: this system does not tell the memory of processes"
        raise NotSupportedError(msg)
    if asked and sys.platform != "win32":
        launch_options(pool)
        _check_rights(pool)


def _check_rights(pool: Pool) -> None:
    if sys.platform == "win32" or os.geteuid() == 0:
        return
    for name in ("user", "groups"):
        if getattr(pool, name) is not None:
            raise _fail(pool, name, "only root may set it")
    if pool.nice < 0:
        raise _fail(pool, "nice", "only root may make it negative")


def launch_options(pool: Pool) -> str:
    """Return the options of a pool in the form that the shim reads; empty where it has none."""
    parts = [f"rlimits={limit}" for limit in _rlimits(pool)]
    if pool.nice:
        parts.append(f"nice={pool.nice}")
    user, groups = _who(pool)
    if groups is not None:
        parts.append(f"groups={','.join(map(str, groups))}")
    if user is not None:
        parts.append(f"user={user}")
    if pool.umask is not None:
        parts.append(f"umask={pool.umask}")
    return ";".join(parts)


def _rlimits(pool: Pool) -> list[str]:
    if not pool.rlimits or sys.platform == "win32":
        return []
    import resource  # Unix only  # noqa: PLC0415

    found = []
    for name, limit in pool.rlimits.items():
        assert isinstance(limit, tuple)  # once validated
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None or not name.islower():
            known = (key[7:].lower() for key in dir(resource) if key.startswith("RLIMIT_"))
            raise _fail(pool, "rlimits", f"there is no {name!r}; this system has {sorted(known)}")
        pair = [_UNLIMITED if part is None else part for part in limit]
        _, most = resource.getrlimit(number)
        above = most != resource.RLIM_INFINITY and not 0 <= pair[1] <= most
        if above and os.geteuid() != 0:
            raise _fail(pool, "rlimits", f"{name!r}: only root may go above {most}")
        found.append(f"{number}:{pair[0]}:{pair[1]}")
    return found


def _who(pool: Pool) -> tuple[int | None, list[int] | None]:
    """Return the user's id and the ids of the groups, the primary one first."""
    if sys.platform == "win32" or (pool.user is None and pool.groups is None):
        return None, None
    import grp  # Unix only  # noqa: PLC0415
    import pwd  # noqa: PLC0415

    entry = None
    try:
        if isinstance(pool.user, str):
            entry = pwd.getpwnam(pool.user)
        elif pool.user is not None and pool.groups is None:
            entry = pwd.getpwuid(pool.user)
    except KeyError:
        text = f"there is no user {pool.user!r}"
        if isinstance(pool.user, int):
            text += " in the system's list; give groups= as well"
        raise _fail(pool, "user", text) from None
    user = entry.pw_uid if entry is not None else pool.user
    assert not isinstance(user, str)
    if pool.groups is None:
        assert entry is not None  # no user and no groups is nobody
        return user, _primary_first(entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid))
    try:
        groups = [g if isinstance(g, int) else grp.getgrnam(g).gr_gid for g in pool.groups]
    except KeyError as exc:
        raise _fail(pool, "groups", f"there is no group: {exc.args[0]}") from None
    return user, groups


def _primary_first(primary: int, groups: list[int]) -> list[int]:
    return [primary, *(group for group in groups if group != primary)]
