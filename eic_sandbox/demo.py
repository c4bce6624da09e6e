"""The whole story on one machine: keys pushed by the AWS CLI, logins through a real sshd."""

import contextlib
import json
import os
import pwd
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.x509 import ocsp

from eic_agent.errors import Reason
from eic_sandbox.aws_cli import run_aws, send_ssh_public_key_command
from eic_sandbox.programs import SandboxError, ensure_openssh, find_program
from eic_sandbox.sandbox import PRINCIPAL, Sandbox, running_sandbox
from eic_sandbox.simulator import PushedKey, faults
from eic_sandbox.simulator.simulator import META
from eic_sandbox.sshd import Login

NO_KEYS = "nobody pushed a key for this user"
_REASONS = {reason.value for reason in Reason}


class Demo:
    """Plays scenes, shows what each side saw, and remembers whether all went as it should."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.metadata = sandbox.instance.metadata
        self.host = sandbox.host
        self._instance = sandbox.instance
        self._environment = sandbox.environment()
        self._directory = directory
        self._started = time.monotonic()
        self._scenes = 0
        self.failures: list[str] = []

    def title(self, text: str) -> None:
        """Begin a scene."""
        self._scenes += 1
        elapsed = time.monotonic() - self._started
        print(f"\n{self._scenes}. {text}  [{elapsed:.0f} s]", flush=True)

    def new_key(self, key_type: str = "ed25519") -> Path:
        """Make a key pair with ssh-keygen, and return the private key's path."""
        path = self._directory / f"key-{len(list(self._directory.glob('*.pub')))}"
        ssh_keygen = find_program("ssh-keygen", "openssh-client")
        command = [ssh_keygen, "-q", "-t", key_type, "-N", "", "-C", "demo", "-f", str(path)]
        subprocess.run(command, check=True)
        return path

    def push(self, key: Path) -> PushedKey:
        """Push with the AWS CLI for our user, and return the block that is now in the metadata."""
        result = self._run_aws(key)
        self._expect(result.returncode == 0, "the API takes the key", result.stderr)
        return self.metadata.keys[self.host.user][-1]

    def refuse_push(self, key: Path, code: str) -> None:
        """Push with the AWS CLI; the API must refuse under this error code."""
        result = self._run_aws(key)
        self._expect(f"({code})" in result.stderr, f"the API answers {code}", result.stdout)

    def admit(self, *keys: Path) -> None:
        """Log in with these keys offered in this order; it must succeed."""
        login = self._login(keys, self.host.user)
        self._show_ssh_and_sshd(login)
        self._explain(keys[-1], self.host.user)
        self._expect(
            login.accepted and login.stdout == f"{self.host.user}\n", "logged in", login.sshd_log
        )

    def refuse(self, key: Path, reason: Reason | str, user: str | None = None) -> None:
        """Log in with this key; it must be refused, and for this reason."""
        user = user or self.host.user
        login = self._login([key], user)
        self._show_ssh_and_sshd(login)
        explanation = self._explain(key, user)
        text = reason.value if isinstance(reason, Reason) else reason
        refused = login.status == 255 and "Permission denied (publickey)" in login.stderr
        self._expect(refused, "refused", login.sshd_log)
        self._expect(text in explanation, f"and the reason is: {text}", explanation)

    def configure(self, **sections: dict[str, object]) -> None:
        """Give the agent its configuration with these sections changed; without any, as it was."""
        self.metadata.config(self._instance.config.parent, self._instance.metadata_url, **sections)

    def wait_until(self, moment: float) -> None:
        """Sleep until the moment, in seconds since the epoch."""
        time.sleep(max(0.0, moment - time.time()))

    def _run_aws(self, key: Path) -> subprocess.CompletedProcess[str]:
        public_key = key.with_suffix(".pub")
        command = send_ssh_public_key_command(self._instance.id, self.host.user, public_key)
        self._show("$", shlex.join(command))
        result = run_aws(command, self._environment)
        self._show("aws", " ".join((result.stdout + result.stderr).split()))
        return result

    def _login(self, keys: Sequence[Path], user: str) -> Login:
        offered = " ".join(f"-i {key.name}" for key in keys)
        self._show("$", f"ssh -p {self.host.port} {offered} {user}@127.0.0.1 id -un")
        return self.host.login(keys, user=user)

    def _show_ssh_and_sshd(self, login: Login) -> None:
        self._show("ssh", login.stdout + login.stderr)
        telling = [line for line in login.sshd_log.splitlines() if " publickey for " in line]
        self._show("sshd", "\n".join(line for line in telling if "Postponed" not in line))

    def _explain(self, key: Path, user: str) -> str:
        """Ask the agent how it decides about this key, and show the steps that matter."""
        ssh_keygen = find_program("ssh-keygen", "openssh-client")
        listed = subprocess.check_output([ssh_keygen, "-l", "-f", str(key)], text=True)
        command = [*self.host.agent_command, "explain", user, listed.split()[1], "--json"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not result.stdout:
            raise SandboxError(f"the agent explains nothing: {result.stderr}")
        explanation = json.loads(result.stdout)
        lines = "\n".join(_telling_findings(explanation))
        self._show("agent", lines)
        return lines

    def _show(self, who: str, text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                print(f"   {who:>5} | {line.rstrip()}", flush=True)
                who = ""

    def _expect(self, true: bool, what: str, otherwise: str) -> None:
        if true:
            print(f"   {'ok':>5} : {what}", flush=True)
        else:
            self.failures.append(f"scene {self._scenes}: {what}")
            print(f"   WRONG : not so: {what}; instead:\n{otherwise}", flush=True)


def play(demo: Demo) -> None:
    """Play every scene; the first key expires while the others are played."""
    demo.title("A key pushed through the API opens the login")
    first = demo.new_key()
    first_block = demo.push(first)
    demo.admit(first)

    title = "So does an RSA key, though three others are offered first"
    with _another_block(demo, title, "rsa") as (key, _):
        demo.admit(demo.new_key(), demo.new_key(), demo.new_key(), key)

    demo.title("The API takes only RSA and ED25519 keys")
    demo.refuse_push(demo.new_key("ecdsa"), "InvalidArgsException")

    demo.title("A key that nobody pushed is refused")
    demo.refuse(demo.new_key(), Reason.OTHER_KEY)

    other_user = _other_user(demo.host.user)
    demo.title(f"The first key is refused for another user, {other_user}")
    demo.refuse(first, NO_KEYS, other_user)

    with _another_block(demo, "The caller in a key block is altered on its way") as (key, block):
        block.tamper = lambda text: text.replace(b"role/Developer/", b"role/Admin/")
        demo.refuse(key, Reason.BAD_SIGNATURE)

    with _another_block(demo, "Metadata serves a key with an hour of life") as (key, block):
        block.expires = int(time.time()) + 3600
        demo.refuse(key, Reason.EXPIRES_TOO_LATE)

    with _another_block(demo, "Metadata serves a key pushed for another instance") as (key, block):
        block.instance = "i-0fedcba9876543210"
        demo.refuse(key, Reason.OTHER_INSTANCE)

    _play_attacks_on_the_signer(demo)

    title = "Only another role may push for this user, says this host's configuration"
    with _another_block(demo, title) as (key, _):
        rule = {"users": [demo.host.user], "callers": ["arn:aws:iam::123456789012:role/Admin"]}
        demo.configure(policy={"rules": [rule]})
        demo.refuse(key, Reason.CALLER_NOT_ALLOWED)
        demo.configure()

    with _another_block(demo, "The metadata service does not answer") as (key, _):
        demo.metadata.faults["*"] = faults.silence()
        demo.refuse(key, Reason.METADATA_UNAVAILABLE)
        demo.metadata.faults.clear()

    assert isinstance(first_block.expires, int)
    left = first_block.expires - time.time()
    demo.title(f"The first key is refused after its 60 seconds ({max(0.0, left):.0f} s to wait)")
    demo.wait_until(first_block.expires)
    demo.refuse(first, NO_KEYS)

    demo.title("The same, had metadata gone on serving it")
    demo.metadata.linger_s = None
    demo.refuse(first, Reason.EXPIRED)


def _play_attacks_on_the_signer(demo: Demo) -> None:
    title = "Metadata is spoofed, with a certificate for somebody else's domain"
    with _another_block(demo, title) as (key, _):
        leaf = demo.metadata.pki.leaf
        genuine = (demo.metadata.domain, leaf.common_name, leaf.dns_names)
        demo.metadata.domain = "attacker.example"
        leaf.common_name = "managed-ssh-signer.us-east-1.attacker.example"
        leaf.dns_names = [leaf.common_name]
        demo.refuse(key, Reason.UNKNOWN_DOMAIN)
        demo.metadata.domain, leaf.common_name, leaf.dns_names = genuine

    with _another_block(demo, "The signer's certificate has been revoked") as (key, _):
        demo.metadata.staples["leaf"].status = ocsp.OCSPCertStatus.REVOKED
        demo.refuse(key, Reason.REVOKED)
        demo.metadata.staples["leaf"].status = ocsp.OCSPCertStatus.GOOD

    title = "Metadata claims to be that of another instance than the hardware says"
    with _another_block(demo, title) as (key, _):
        demo.metadata.documents[META + "instance-id/"] = b"i-0fedcba9876543210"
        demo.refuse(key, Reason.NOT_THIS_INSTANCE)
        demo.metadata.documents.clear()


def _telling_findings(explanation: dict[str, Any]) -> list[str]:
    """Give what decided: refusals, that there are no keys, who pushed, and what was granted.

    Other keys in the same metadata are named only where nothing else decided.
    """
    told, others = [], []
    for step in explanation["steps"]:
        for finding in step["findings"]:
            outcome = finding["outcome"]
            line = f"step {step['step']}, {step['title']}: {outcome}"
            line += f": {finding['problem']}" if finding.get("problem") else ""
            line += f"; pushed by {finding['caller']}" if finding.get("caller") else ""
            if outcome == Reason.OTHER_KEY.value:
                others.append(line)
            elif outcome in _REASONS or outcome == NO_KEYS or (step["step"] >= 8):
                told.append(line)
    if explanation["undecided"] is not None:
        told.append(f"{explanation['undecided']}: {explanation['detail']}")
    return told or others


@contextlib.contextmanager
def _another_block(
    demo: Demo, title: str, key_type: str = "ed25519"
) -> Iterator[tuple[Path, PushedKey]]:
    """Push one more key, for one scene only."""
    demo.title(title)
    key = demo.new_key(key_type)
    block = demo.push(key)
    yield key, block
    demo.metadata.keys[demo.host.user].remove(block)


def _other_user(user: str) -> str:
    """Return a user whom every machine has, and who is not the given one."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("nobody", "root", *names) if name in names and name != user)


def main() -> int:
    """Play the demo; 0 only where every login and every refusal went as it should."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        ensure_openssh()
        with tempfile.TemporaryDirectory(prefix="eic-demo-") as name:
            directory = Path(name)
            keys = directory / "keys"
            keys.mkdir()
            with running_sandbox(directory) as sandbox:
                print(
                    f"A local EC2 Instance Connect: the API at {sandbox.api_url}, instance "
                    f"{sandbox.instance.id} with metadata at {sandbox.instance.metadata_url},\n"
                    f"its sshd on port {sandbox.host.port} as {sandbox.host.user}, and a caller "
                    f"{PRINCIPAL.arn}"
                )
                demo = Demo(sandbox, keys)
                play(demo)
    except SandboxError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print("\n" + ("\n".join(demo.failures) or "Every login and every refusal went as it should."))
    return 1 if demo.failures else 0


if __name__ == "__main__":
    os.environ.pop("SSH_AUTH_SOCK", None)
    sys.exit(main())
