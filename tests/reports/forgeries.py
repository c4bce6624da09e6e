"""What a user without privileges can write into the journal, to be run by bash as that user.

$PID is the sshd process of a login of hers, $KEY and $REQUEST are the login's, $OTHER is a key that
nobody pushed. SENDER is a program in her home, send.py.
"""

ADDRESS = "198.51.100.66"
LINE = f"Accepted publickey for root from {ADDRESS} port 6 ssh2: ED25519 $OTHER"
FIELDS = r"""SYSLOG_IDENTIFIER=eic-agent
MESSAGE_ID=90f2168c94cd4cb0b84a6bce5413711b
MESSAGE=granted
EIC_DECISION=granted
EIC_USER=root
EIC_FINGERPRINT=$OTHER
EIC_CALLER=arn:aws:iam::1:user/forged
EIC_REQUEST=$REQUEST
EIC_SSHD_PID=$PID
_UID=0
_SYSTEMD_UNIT=eic-agent.service
_TRANSPORT=journal
"""
SENDER = r"""
import os, socket, sys, tempfile
kind, text = sys.argv[1], sys.stdin.buffer.read()
native, log = "/run/systemd/journal/socket", "/dev/log"
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM)
if kind == "native":
    s.sendto(text, native)
elif kind == "binary":  # a value with lines that look like fields, and one of a megabyte
    value = b"x\n\n_UID=0\n_SYSTEMD_UNIT=eic-agent.service\n"
    text += b"EIC_DETAIL\n" + len(value).to_bytes(8, "little") + value + b"\n"
    text += b"EIC_LONG=" + b"x" * 1000000 + b"\n"
    fd = os.memfd_create("entry", os.MFD_ALLOW_SEALING)
    os.write(fd, text)
    import fcntl
    fcntl.fcntl(fd, 1033, 15)
    socket.send_fds(s, [], [fd], address=native)
elif kind == "credentials":  # another process's id, which the kernel does not take
    import struct
    ids = struct.pack("3i", int(os.environ["PID"]), 0, 0)
    try:
        s.sendmsg([text], [(socket.SOL_SOCKET, 2, ids)], 0, log)
    except PermissionError:
        pass
elif kind == "stream":
    s.connect("/run/systemd/journal/stdout")
    s.sendall(b"sshd\nssh.service\n6\n0\n0\n0\n0\n" + text)
else:
    s.sendto(text, log)
"""
FORGERIES = {
    "logger --journald": f"logger --journald <<END\n{FIELDS}END",
    "the native socket": f"python3 ~/send.py native <<END\n{FIELDS}END",
    "the native socket, any value and size": f"python3 ~/send.py binary <<END\n{FIELDS}END",
    "the syslog socket": f'printf "<86>sshd[$PID]: {LINE}" | python3 ~/send.py syslog',
    "the syslog socket, with another's process id": (
        f'printf "<86>sshd[$PID]: {LINE}" | python3 ~/send.py credentials'
    ),
    "a stream of its own": f'echo "{LINE}" | python3 ~/send.py stream',
    "logger as sshd": f'logger -p authpriv.info -t sshd --id=$PID "{LINE}"',
    "logger as sshd-session": f'logger -p authpriv.info -t sshd-session --id=$PID "{LINE}"',
    "a program named sshd": (
        f'cp /usr/bin/logger ~/sshd; (exec -a "sshd: alice [priv]" ~/sshd -t sshd "{LINE}")'
    ),
    "root in a user namespace": (
        f'unshare --user --map-root-user logger -t sshd "{LINE}"; '
        f"unshare --user --map-root-user logger --journald <<END\n{FIELDS}END\ntrue"
    ),
    "su, called by the name sshd": (
        "ln -sf $(command -v su) ~/sshd; echo wrong | ~/sshd root -c true; "
        f"systemd-cat -t sshd bash -c 'exec -a \"{LINE}\" su --nonsense'; true"
    ),
    "sudo, called by the name sshd": (
        "ln -sf $(command -v sudo) ~/sshd; ~/sshd -n true; (exec -a sshd sudo -n true); "
        f"systemd-cat -t sshd bash -c 'exec -a \"{LINE}\" sudo --nonsense'; true"
    ),
    "the end of the session": (
        'logger -t sshd --id=$PID "pam_unix(sshd:session): session closed for user alice"; '
        'logger -t sshd "Disconnected from user alice 127.0.0.1 port 1"'
    ),
    "a lookup of her own": (
        "EIC_SSHD_PID=$PID eic-agent authorized-keys alice $KEY >/dev/null; "
        "/usr/libexec/eic-agent/eic-authorized-keys alice $KEY >/dev/null; true"
    ),
}
