"""Debian root file systems that test machines boot from: built once, kept between test runs.

An image is a directory that nothing writes to after it was built. It lives outside of the clone,
in `$EIC_TEST_IMAGES` or else `$XDG_CACHE_HOME/eic-agent`, under a name that holds a hash of its
recipe, so a changed recipe means another image. `make clean` leaves it; removing the directory
is safe whenever no tests run.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests import support

UNUSED_AFTER_S = 14 * 24 * 3600.0

PACKAGES = (
    "cloud-init",
    "dbus",
    "iproute2",
    "openssh-server",
    "procps",
    "python3",
    "python3-cffi-backend",  # cloud-init's, by a virtual name, which debootstrap cannot follow
    "rpm",
    "sudo",
    "systemd",
    "systemd-sysv",
)

# Run by sh in the new root. No package source is left, so apt installs what it is handed and
# asks nobody. cloud-init stays off until a test wants it, since it costs a boot three seconds;
# there are no locales here for it to choose from, and no network where it could ask around.
CUSTOMISE = """
set -eu
: > /etc/apt/sources.list
apt-get clean
rm -rf /var/lib/apt/lists/*
mkdir -p /var/lib/apt/lists/partial
touch /etc/cloud/cloud-init.disabled
cat > /etc/cloud/cloud.cfg.d/90-container.cfg << 'END'
locale: C.UTF-8
datasource_list: [NoCloud, None]
END
rm -f /etc/resolv.conf /etc/hostname
: > /etc/machine-id
for user in alice bob; do
    useradd --create-home --shell /bin/bash "$user"
done
mkdir -p /run/sshd
if sshd -T | grep -q '^persourcepenalties '; then
    # Every login of the tests comes from one address, and many are meant to fail.
    echo 'PerSourcePenalties no' > /etc/ssh/sshd_config.d/90-many-failures.conf
fi
rm -rf /run/sshd
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what is in an image."""

    suite: str
    packages: tuple[str, ...] = PACKAGES
    customise: str = CUSTOMISE

    @property
    def name(self) -> str:
        """The name of the image in the cache."""
        return f"{self.suite}-{hashlib.sha256(repr(self).encode()).hexdigest()[:12]}"


RECIPES = {"debian12": Recipe("bookworm"), "debian13": Recipe("trixie")}


@contextlib.contextmanager
def image(recipe: Recipe) -> Iterator[Path]:
    """Give the image's directory, built where need be; meanwhile no other process removes it."""
    cache = _cache()
    with _locked(cache / f"{recipe.name}.lock", fcntl.LOCK_EX) as lock:
        root = cache / recipe.name
        if not root.is_dir():
            _build(recipe, root)
        os.utime(lock.fileno())
        fcntl.flock(lock, fcntl.LOCK_SH)
        _remove_unused(cache)
        yield root


def _cache() -> Path:
    override = os.environ.get("EIC_TEST_IMAGES")
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(override) if override else Path(cache_home, "eic-agent")
    # Old programs with the set-user-id bit are in there.
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    return cache


@contextlib.contextmanager
def _locked(path: Path, operation: int) -> Iterator[TextIO]:
    with path.open("a") as lock:
        fcntl.flock(lock, operation)
        yield lock


def _build(recipe: Recipe, root: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f"{root.name}.", dir=root.parent))
    log = root.with_suffix(".log")
    try:
        with log.open("w") as output:
            _logged(
                output,
                # What debootstrap mounts goes with the namespace, however it ends.
                *("unshare", "--mount", "--propagation", "private", "--"),
                *("debootstrap", "--force-check-gpg", "--variant=minbase"),
                f"--include={','.join(recipe.packages)}",
                *(recipe.suite, str(unfinished), *_mirror()),
            )
            _logged(output, "chroot", str(unfinished), "/bin/sh", "-c", recipe.customise)
        unfinished.chmod(0o755)
        unfinished.rename(root)
    except subprocess.CalledProcessError as failure:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"no image of {recipe.suite} could be built, see {log}:\n{last}") from (
            failure
        )
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _logged(output: TextIO, *command: str) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    environment |= {name: text for name, text in os.environ.items() if name.endswith("_proxy")}
    environment["DEBIAN_FRONTEND"] = "noninteractive"
    subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        check=True,
    )


def _mirror() -> tuple[str, ...]:
    """Where this machine takes Debian from; nothing, and so debootstrap's default, elsewhere."""
    if shutil.which("apt-get") is None:
        return ()
    wanted = ("Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main")
    indexes = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return tuple(indexes[:1])


def _remove_unused(cache: Path) -> None:
    """Remove the images of recipes that nobody has used for two weeks."""
    for lock_file in cache.glob("*.lock"):
        if time.time() - lock_file.stat().st_mtime < UNUSED_AFTER_S:
            continue
        with (
            contextlib.suppress(BlockingIOError),
            _locked(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)


def ready() -> None:
    """End the test here unless images can be built and booted on this machine."""
    support.root()
    support.program("debootstrap", "debootstrap")
    support.program("systemd-nspawn", "systemd-container")
