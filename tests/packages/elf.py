"""What of an ELF file is loaded (elf(5)); and the ELF files in the locked wheels."""

import struct
import zipfile
from pathlib import Path, PurePosixPath

from wheels import locked_wheels

_HEADER = 64  # speaks of the sections too, which are not loaded
_PT_LOAD = 1


def loaded(content: bytes) -> list[bytes]:
    """The bytes of each segment that is loaded, but for the file's header."""
    offset = struct.unpack_from("<Q", content, 0x20)[0]
    size, number = struct.unpack_from("<HH", content, 0x36)
    segments = []
    for at in range(offset, offset + size * number, size):
        kind, _flags, start, _address, _, length = struct.unpack_from("<IIQQQQ", content, at)
        if kind == _PT_LOAD:
            segments.append(content[max(start, _HEADER) : start + length])
    return segments


def from_wheels(directory: Path, architecture: str) -> dict[str, bytes]:
    """Every shared object in the locked wheels of an architecture, by its name."""
    found = {}
    for wheel in locked_wheels(directory, architecture):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".so"):
                    found[PurePosixPath(name).name] = archive.read(name)
    return found
