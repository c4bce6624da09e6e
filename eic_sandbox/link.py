"""A link between two machines on which packets are lost and late: a bad way to metadata.

The kernel's own tool for this is netem, a module that many kernels lack. Here each machine has a
TUN device, and a thread carries packets from one to the other, so that both kernels do all that
TCP does about it.
"""

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from eic_sandbox.network import Machine
from eic_sandbox.programs import SandboxError

_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_DEVICE = "way"
_MOST = 65536


@dataclass(frozen=True)
class Packet:
    """What crosses the link; `outward` is from the near machine to the far one."""

    data: bytes
    outward: bool

    @property
    def version(self) -> int:
        """4 or 6, for IP."""
        return self.data[0] >> 4

    @property
    def ports(self) -> tuple[int, int]:
        """The ports of sender and receiver, (0, 0) for what is no TCP."""
        start = (self.data[0] & 15) * 4 if self.version == 4 else 40
        protocol = self.data[9] if self.version == 4 else self.data[6]
        return struct.unpack_from("!HH", self.data, start) if protocol == 6 else (0, 0)


Loses = Callable[[Packet], bool]


def loses(share: float, seed: int = 1) -> Loses:
    """Lose this share of all packets."""
    dice = random.Random(seed)
    return lambda _: dice.random() < share


class Link:
    """What happens on the link; both fields may be changed while it is used."""

    def __init__(self) -> None:
        self.loses: Loses = loses(0.0)
        self.delay_s = 0.0
        self.carried = 0
        self.lost = 0


def obstacle() -> str | None:
    """Say what keeps us from making a link here, besides what keeps us from machines."""
    return None if os.access(_TUN, os.R_OK | os.W_OK) else f"there is no {_TUN} here"


@contextlib.contextmanager
def link(
    near: Machine, far: Machine, near_addresses: Sequence[str], far_addresses: Sequence[str]
) -> Iterator[Link]:
    """Connect two machines; each gets its addresses, and a route to those of the other."""
    state = Link()
    stop, stopped = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, stop)
        ends = [_end(stack, near, near_addresses), _end(stack, far, far_addresses)]
        for machine, addresses in ((near, far_addresses), (far, near_addresses)):
            for address in addresses:
                machine.run("ip", _family(address), "route", "add", address, "dev", _DEVICE)
        carrier = threading.Thread(target=_carry, args=(state, *ends, stop), daemon=True)
        carrier.start()
        stack.callback(carrier.join)
        stack.callback(os.close, stopped)
        yield state


def _family(address: str) -> str:
    return "-6" if ":" in address else "-4"


def _end(stack: contextlib.ExitStack, machine: Machine, addresses: Sequence[str]) -> int:
    def make() -> int:
        descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
        request = struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN_NO_PI)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        return descriptor

    try:
        descriptor = machine.call(make)
    except OSError as error:
        raise SandboxError(f"{_TUN}: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    for address in addresses:
        words = ["ip", _family(address), "address", "add", address, "dev", _DEVICE]
        machine.run(*words, *(["nodad"] if ":" in address else []))
    machine.run("ip", "link", "set", _DEVICE, "up")
    return descriptor


def _carry(state: Link, near: int, far: int, stop: int) -> None:
    order = count()
    under_way: list[tuple[float, int, int, bytes]] = []
    others = {near: far, far: near}
    while True:
        timeout_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        ready, _, _ = select.select([near, far, stop], [], [], timeout_s)
        if stop in ready:
            return
        for end in ready:
            packet = Packet(os.read(end, _MOST), outward=end == near)
            if state.loses(packet):
                state.lost += 1
                continue
            state.carried += 1
            due = time.monotonic() + state.delay_s
            heapq.heappush(under_way, (due, next(order), others[end], packet.data))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, end, data = heapq.heappop(under_way)
            with contextlib.suppress(OSError):  # the device may be down
                os.write(end, data)
