"""A peer of client.py that answers each lookup at once, with one line; run by path.

`python3 -I -S answerer.py SOCKET LINE`: what is left of a lookup when the agent does nothing.
"""

import socket
import sys


def main(path: str, line: str) -> None:
    """Serve for ever."""
    payload = line.encode() + b"\n"
    answer = b"+A" + len(payload).to_bytes(4, "big") + payload
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        print(flush=True)
        while True:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4200)
                peer.sendall(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
