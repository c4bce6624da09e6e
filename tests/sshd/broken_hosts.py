"""Ways to keep a user out, each tried on a running sshd; run in a mount namespace of its own.

Prints JSON: for each way whether ssh got in, and what eic_agent.sshd.access says of it.
"""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from eic_agent.sshd import access, wiring
from eic_agent.sshd.survey import System

CLIENT = "/usr/libexec/eic-agent/eic-authorized-keys"
BEFORE_OURS = "/etc/ssh/sshd_config.d/00-aaa.conf"
MAIN = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\nAuthorizedKeysFile none\nPidFile none\n"
PREPARE = """
for tree in /etc /usr/libexec; do
    layers=$(mktemp -d "$1/layers.XXXX")
    mkdir -p "$tree" "$layers/upper" "$layers/work"
    mount -t overlay overlay -o "lowerdir=$tree,upperdir=$layers/upper,workdir=$layers/work" "$tree"
done
mount -t tmpfs tmpfs /home
rm -f /etc/nologin /etc/ssh/sshd_config.d/*
mkdir -p /run/sshd /usr/libexec/eic-agent /etc/ssh/sshd_config.d /etc/eic-agent/config.d
useradd --create-home --shell /bin/bash alice
useradd --system eic-agent
ssh-keygen -q -t ed25519 -N '' -f "$1/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$1/id"
"""


def _drop_in(*lines: str) -> tuple[str, str]:
    text = "".join(f"{line}\\n" for line in lines)
    return f"printf '{text}' > {BEFORE_OURS}", f"rm {BEFORE_OURS}"


# What breaks the host, what mends it, and a part of what is said of it; "" where it breaks nothing.
WAYS = {
    "nothing": ("true", "true", ""),
    "another command before ours": (
        *_drop_in("AuthorizedKeysCommand /bin/false", "AuthorizedKeysCommandUser root"),
        "/bin/false",
    ),
    "another user before ours": (*_drop_in("AuthorizedKeysCommandUser nobody-here"), "nobody-here"),
    "a Match block for the user": (
        *_drop_in("Match User alice", "AuthorizedKeysCommand none"),
        "is none",
    ),
    "a Match block for another": (*_drop_in("Match User bob", "AuthorizedKeysCommand none"), ""),
    "no public keys": (*_drop_in("PubkeyAuthentication no"), "PubkeyAuthentication"),
    "other methods": (*_drop_in("AuthenticationMethods keyboard-interactive"), "Methods"),
    "AllowUsers of others": (*_drop_in("AllowUsers bob c*"), "AllowUsers"),
    "AllowUsers of this one": (*_drop_in("AllowUsers bob a?ice"), ""),
    "DenyUsers": (*_drop_in("DenyUsers al*"), "DenyUsers"),
    "AllowGroups of others": (*_drop_in("AllowGroups wheel"), "AllowGroups"),
    "DenyGroups": (*_drop_in("DenyGroups alice"), "DenyGroups"),
    "no drop-in": (
        "mv /etc/ssh/sshd_config.d/00-eic-agent.conf /etc/away",
        "mv /etc/away /etc/ssh/sshd_config.d/00-eic-agent.conf",
        "is none",
    ),
    "a client that all may write": (f"chmod 777 {CLIENT}", f"chmod 755 {CLIENT}", "refuses"),
    "a client of the user's": (f"chown alice {CLIENT}", f"chown root {CLIENT}", "refuses"),
    "a directory that all may write": (
        "chmod 777 /usr/libexec/eic-agent",
        "chmod 755 /usr/libexec/eic-agent",
        "refuses",
    ),
    "no client": (f"mv {CLIENT} /etc/away", f"mv /etc/away {CLIENT}", "refuses"),
    "no user to run it as": ("userdel eic-agent", "useradd --system eic-agent", "does not exist"),
    "an account that expired": ("chage -E 1 alice", "chage -E -1 alice", "expired"),
    "a shell that is not there": (
        "usermod --shell /bin/none alice",
        "usermod --shell /bin/bash alice",
        "shell",
    ),
    "nologin as shell": (
        "usermod --shell /usr/sbin/nologin alice",
        "usermod --shell /bin/bash alice",
        "shell",
    ),
    "nologin for all": ("touch /etc/nologin", "rm /etc/nologin", "nologin"),
    "a locked account without PAM": (
        "usermod --lock alice; sed -i 's/UsePAM yes/UsePAM no/' /etc/ssh/sshd_config",
        "usermod --password x alice; sed -i 's/UsePAM no/UsePAM yes/' /etc/ssh/sshd_config",
        "locked",
    ),
    "a locked account with PAM": ("usermod --lock alice", "usermod --password x alice", ""),
}


def _logs_in(directory: Path) -> bool:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = ["/usr/sbin/sshd", "-D", "-h", str(directory / "host_key"), "-E", str(directory / "log")]
    with subprocess.Popen([*argv, "-o", f"ListenAddress=127.0.0.1:{port}"]) as sshd:
        try:
            ends = time.monotonic() + 30
            while time.monotonic() < ends:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
            ssh = ["ssh", "-F", "/dev/null", "-i", str(directory / "id"), "-p", str(port)]
            for option in ("BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none"):
                ssh += ["-o", option]
            ssh += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
            done = subprocess.run(
                [*ssh, "alice@127.0.0.1", "true"], capture_output=True, timeout=60, check=False
            )
            return done.returncode == 0
        finally:
            sshd.terminate()


def main(directory: Path) -> None:
    """Try every way, one after the other."""

    def sh(script: str) -> None:
        argv = ["sh", "-euc", script, "sh", str(directory)]
        subprocess.run(argv, stdout=sys.stderr, check=True)

    sh(PREPARE)
    Path("/etc/ssh/sshd_config").write_text(MAIN)
    key = (directory / "id.pub").read_text().strip()
    Path(CLIENT).write_text(f"#!/bin/sh\necho '{key}'\n")
    Path(CLIENT).chmod(0o755)
    wired = wiring.enable(System())
    assert wired.ok, wiring.outcome_text(wired)
    found = {}
    for name, (breaks, mends, _said) in WAYS.items():
        sh(breaks)
        asked = access.find(System(), "alice", time.time())
        found[name] = {"logs_in": _logs_in(directory), **asked.data()}
        sh(mends)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
