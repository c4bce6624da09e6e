"""One EC2 instance's metadata as EC2 Instance Connect fills it: in memory, or as IMDSv2."""

import contextlib
import email.utils
import secrets
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from cryptography.hazmat.primitives.asymmetric import rsa

from eic_sandbox.simulator import host
from eic_sandbox.simulator.blocks import PushedKey
from eic_sandbox.simulator.faults import Answer, Fault, Hangup, Wait
from eic_sandbox.simulator.pki import Recipe, SignerPKI
from eic_sandbox.simulator.rsa_keys import rsa_key
from eic_sandbox.simulator.server import Request, Server
from eic_sandbox.simulator.ssh_keys import SSHKey
from eic_sandbox.simulator.staples import Staple

META = "/latest/meta-data/"
TOKEN_PATH = "/latest/api/token"
SSH_KEYS = META + "managed-ssh-keys/"
ACTIVE_KEYS = SSH_KEYS + "active-keys/"
SIGNER_CERT = SSH_KEYS + "signer-cert/"
SIGNER_OCSP = SSH_KEYS + "signer-ocsp/"
MAX_TOKEN_TTL_S = 21600
CALLER = "arn:aws:sts::123456789012:assumed-role/Admin/alice"


class MetadataSimulator:
    """A well-behaved metadata service, attacked by changing one thing of it.

    - `sim.push(user, key)` returns the block, whose attributes may be changed (`blocks.PushedKey`);
      `sim.keys[user]` lists them.
    - `sim.pki.leaf` and the other certificates (`pki.Recipe`): `sim.pki.leaf.common_name =
      "evil.example"`. What is served is `sim.chain`, a list of them. Trust `sim.anchors_pem`.
    - `sim.staples["leaf"]`, `["intermediate"]`, `["cross_root"]` (`staples.Staple`), removed with
      `del`; `sim.staple_names` is "sha1" or "sha256".
    - `sim.documents[PATH] = bytes` replaces a document, None makes it 404. Instance facts are
      attributes: `instance_id`, `availability_zone`, `region` (None: 404), `domain`, `partition`.
    - `sim.faults[PATH]` (or `["*"]`): see `faults`. `sim.latency_s`, `sim.date_offset_s`,
      `sim.keep_alive` change how it answers.
    - `sim.requests[PATH]` counts requests over HTTP, `sim.most_concurrent[PATH]` how many were in
      progress together, `sim.log` holds the last 10,000 of them. PATH is percent-decoded.
      `sim.reset_counters()` begins anew.
    - `sim.now` is a float or a callable, seconds since the epoch; certificates stay as they were
      when it changes, staples are as fresh as their age says.

    Paths of keys and the signer are answered only in the form that the reference implementation
    asks for: with a trailing slash, but for a single staple. Other documents are answered in both
    forms.
    """

    def __init__(
        self,
        *,
        now: float | Callable[[], float] = time.time,
        instance_id: str = "i-0123456789abcdef0",
        region: str = "us-east-1",
        availability_zone: str | None = None,
        domain: str = "amazonaws.com",
        partition: str = "aws",
    ) -> None:
        self.now = now
        self.instance_id = instance_id
        self.region: str | None = region
        self.availability_zone = availability_zone or region + "a"
        self.domain = domain
        self.partition = partition
        self.pki = SignerPKI(f"managed-ssh-signer.{region}.{domain}", self.now)
        self.chain: list[Recipe] = [self.pki.leaf, self.pki.intermediate, self.pki.cross_root]
        self.staples: dict[str, Staple] = {
            "leaf": Staple(self.pki.leaf),
            "intermediate": Staple(self.pki.intermediate),
            "cross_root": Staple(self.pki.cross_root),
        }
        self.staple_names = "sha1"
        self.keys: dict[str, list[PushedKey]] = {}
        self.linger_s: float | None = None
        """How long after its expiry a block is still served; None: for ever."""
        self.documents: dict[str, bytes | None] = {}
        self.faults: dict[str, Fault] = {}
        self.latency_s = 0.0
        self.date_offset_s: float | None = 0.0
        """Added to `now` in the Date header; None: no such header."""
        self.keep_alive = True
        self.token_required = True
        self._tokens: dict[str, float] = {}
        self._lock = threading.Lock()
        self._in_progress: Counter[str] = Counter()
        self.reset_counters()

    @property
    def now(self) -> float:
        """Seconds since the epoch, as this service sees it."""
        return self._now()

    @now.setter
    def now(self, value: float | Callable[[], float]) -> None:
        if callable(value):
            self._now: Callable[[], float] = value
        else:
            self._now = lambda: value

    # What a test changes.

    def push(
        self,
        user: str,
        key: SSHKey | str,
        *,
        caller: str | None = CALLER,
        request: str | None = "",
        expires: int | None = None,
    ) -> PushedKey:
        """Add a key as SendSSHPublicKey would, for 60 s; an empty `request` means a new id."""
        block = PushedKey(
            key_line=key if isinstance(key, str) else key.line,
            expires=int(self.now) + 60 if expires is None else expires,
            instance=self.instance_id,
            caller=caller,
            request=str(uuid.uuid4()) if request == "" else request,
        )
        self.keys.setdefault(user, []).append(block)
        return block

    def rotate_signer(self) -> None:
        """Replace leaf and staple by those of a new signer key, which then signs every block."""
        old = self.pki.leaf
        assert old.common_name is not None
        new = self.pki.server(old.common_name, old.issuer, purpose=f"leaf {old.serial + 1}")
        self.chain = [new if recipe is old else recipe for recipe in self.chain]
        self.pki.leaf = new
        self.staples["leaf"] = Staple(new)

    def revoke_tokens(self) -> None:
        """Make every token given out so far a wrong one."""
        self._tokens.clear()

    def reset_counters(self) -> None:
        """Forget the requests seen so far."""
        self.requests: Counter[str] = Counter()
        self.most_concurrent: Counter[str] = Counter()
        self.log: deque[Request] = deque(maxlen=10_000)

    # What is served.

    @property
    def anchors_pem(self) -> bytes:
        """The root to trust."""
        return self.pki.root.pem

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET, without HTTP and tokens between; `path` as in a URL."""
        path = unquote(path)
        if path in self.documents:
            body = self.documents[path]
        elif path.startswith(SSH_KEYS):
            body = self._ssh_keys(path)
        elif path.startswith(META):
            body = self._facts().get(path[len(META) :].rstrip("/"))
        else:
            body = None
        return (404, b"") if body is None else (200, body)

    def _facts(self) -> dict[str, bytes | None]:
        facts = {
            "instance-id": self.instance_id,
            "placement/availability-zone": self.availability_zone,
            "placement/region": self.region,
            "services/domain": self.domain,
            "services/partition": self.partition,
        }
        return {name: None if fact is None else fact.encode() for name, fact in facts.items()}

    def _ssh_keys(self, path: str) -> bytes | None:
        if path == ACTIVE_KEYS:
            users = [user for user in sorted(self.keys) if self._blocks(user)]
            return "\n".join(users).encode() if users else None
        if path.startswith(ACTIVE_KEYS) and path.endswith("/"):
            leaf_key = self.pki.leaf.key
            assert isinstance(leaf_key, rsa.RSAPrivateKey)
            blocks = self._blocks(path[len(ACTIVE_KEYS) : -1])
            return b"".join(block.text(leaf_key) for block in blocks) or None
        if path == SIGNER_CERT:
            return b"".join(recipe.pem for recipe in self.chain)
        if path == SIGNER_OCSP:
            return "\n".join(self._named_staples()).encode()
        if path.startswith(SIGNER_OCSP):
            staple = self._named_staples().get(path[len(SIGNER_OCSP) :])
            return None if staple is None else staple.text(self.now)
        return None

    def _blocks(self, user: str) -> list[PushedKey]:
        blocks = self.keys.get(user, [])
        if self.linger_s is None:
            return blocks
        gone = self.now - self.linger_s
        return [
            block for block in blocks if isinstance(block.expires, int) and block.expires > gone
        ]

    def _named_staples(self) -> dict[str, Staple]:
        return {
            staple.name or staple.subject.fingerprint(self.staple_names): staple
            for staple in self.staples.values()
        }

    # HTTP.

    @contextlib.contextmanager
    def serve(self, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
        """Serve as IMDSv2 does, and give the URL to put before a path; `::1` serves on IPv6."""
        server = Server(self.handle, host, port)
        self.server = server
        try:
            yield server.url
        finally:
            server.close()

    def handle(self, request: Request, wait: Wait) -> Generator[bytes, None, None]:
        """Answer one HTTP request, in pieces where a fault wants that."""
        path = unquote(request.path)
        with self._lock:
            self.requests[path] += 1
            self.log.append(request)
            self._in_progress[path] += 1
            self.most_concurrent[path] = max(self.most_concurrent[path], self._in_progress[path])
        try:
            if self.latency_s:
                wait(self.latency_s)
            answer = self._answer(request)
            fault = self.faults.get(path) or self.faults.get("*")
            if fault is None:
                yield answer.raw()
            else:
                yield from fault(answer, wait)
        finally:
            with self._lock:
                self._in_progress[path] -= 1
        if answer.headers.get("Connection") == "close":
            raise Hangup

    def _answer(self, request: Request) -> Answer:
        status, body, headers = self._status_body_headers(request)
        headers["Content-Type"] = "text/plain"
        headers["Server"] = "EC2ws"
        if self.date_offset_s is not None:
            moment = self.now + self.date_offset_s
            headers["Date"] = email.utils.formatdate(moment, usegmt=True)
        if not self.keep_alive:
            headers["Connection"] = "close"
        return Answer(status, body, headers, with_body=request.method != "HEAD")

    def _status_body_headers(self, request: Request) -> tuple[int, bytes, dict[str, str]]:
        if request.path == TOKEN_PATH and request.method == "PUT":
            return self._token(request.headers)
        if request.method not in ("GET", "HEAD"):
            return 405, b"", {"Allow": "GET, HEAD"}
        if self.token_required:
            token = request.headers.get("x-aws-ec2-metadata-token", "")
            if self._tokens.get(token, 0.0) <= self.now:
                return 401, b"", {}
        return (*self.get(request.path), {})

    def _token(self, headers: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if "x-forwarded-for" in headers:
            return 403, b"", {}
        name = "X-aws-ec2-metadata-token-ttl-seconds"
        text = headers.get(name.lower(), "")
        ttl_s = int(text) if text.isascii() and text.isdigit() else 0
        if not 1 <= ttl_s <= MAX_TOKEN_TTL_S:
            return 400, b"", {}
        token = secrets.token_urlsafe(40)
        self._tokens[token] = self.now + ttl_s
        return 200, token.encode(), {name: str(ttl_s)}

    # The machine around it.

    def sysfs(self, directory: Path, kind: str = "nitro", instance_id: str | None = None) -> Path:
        """Lay out a fake /sys and return its root; `kind` is nitro, xen or none."""
        return host.write_sysfs(directory / "sys", kind, instance_id or self.instance_id)

    def config(self, directory: Path, endpoint: str, **sections: Mapping[str, object]) -> Path:
        """Write a configuration for the agent that uses this service, and return its path.

        Sections given are merged over what is needed to reach and trust this simulator:
        `keys={"max_lifetime_s": 0}`.
        """
        anchors = directory / "anchors.pem"
        anchors.write_bytes(self.anchors_pem)
        tables: dict[str, dict[str, object]] = {
            "imds": {"endpoint": endpoint},
            "identity": {"sysfs_root": str(directory / "sys")},
            "trust": {"anchors": str(anchors)},
        }
        if not (directory / "sys").exists():
            self.sysfs(directory)
        for name, section in sections.items():
            tables.setdefault(name, {}).update(section)
        return host.write_config(directory / "config.toml", tables)


def another_rsa_key() -> rsa.RSAPrivateKey:
    """Return a key that no certificate of any simulator holds."""
    return rsa_key("nobody's")
