"""The tree with the agent and its dependencies."""

import platform
import struct
import subprocess
from pathlib import Path

import pytest
from wheels import PYTHONS, ROOT, read_lock

from tests.support import lacking, pythons

ELF_MACHINES = {"x86_64": 62, "aarch64": 183}  # elf(5), e_machine

# What the agent does with its dependencies: certificates from an OpenSSH client's key on, a
# signature as EC2 Instance Connect's, path validation, HTTP, the journal.
EXERCISE = """
import sys
bundle = sys.argv[1]
sys.path.append(bundle)
import cachetools, requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509 import ocsp, verification
import eic_agent.journal.writer, eic_agent.lookup.keyblock, eic_agent.lookup.trust

key = rsa.generate_private_key(65537, 2048)
pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
key.public_key().verify(key.sign(b"signed", pss, hashes.SHA256()), b"signed", pss, hashes.SHA256())

foreign = {
    name
    for name, module in sys.modules.items()
    if "." not in name and getattr(module, "__file__", None)
    and not module.__file__.startswith((bundle, sys.base_prefix))
}
print(sorted(foreign), sorted(name for name in ("cffi", "pycparser") if name in sys.modules))
"""


def test_it_works_on_every_python_of_this_machine_without_anything_else_installed(
    bundles: dict[str, Path],
) -> None:
    if platform.machine() not in bundles:
        lacking("a machine of a supported architecture", "running the tests on one")
    bundle = bundles[platform.machine()]
    supported = {v: p for v, p in pythons().items() if v.rpartition(".")[0] in PYTHONS}
    for version, python in supported.items():
        command = [python, "-ISB", "-Werror", "-c", EXERCISE, str(bundle)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr, version) == ("[] []\n", "", version)
    assert supported
    assert not list(bundle.rglob("__pycache__"))


@pytest.mark.parametrize("architecture", sorted(ELF_MACHINES))
def test_its_machine_code_is_for_its_architecture_and_every_python(
    architecture: str, bundles: dict[str, Path]
) -> None:
    found = {path.name: path.read_bytes()[:20] for path in bundles[architecture].rglob("*.so")}
    backends = {
        f"_cffi_backend.cpython-{python.replace('.', '')}-{architecture}-linux-gnu.so"
        for python in PYTHONS
    }
    assert found.keys() == backends | {"_rust.abi3.so"}
    for header in found.values():
        assert header[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", header, 18) == (ELF_MACHINES[architecture],)


def test_both_architectures_differ_in_machine_code_and_its_bill_of_materials_alone(
    bundles: dict[str, Path],
) -> None:
    contents = [
        {
            path.relative_to(bundle): path.read_bytes()
            for path in bundle.rglob("*")
            if path.is_file() and path.suffix != ".so" and path.parent.name != "sboms"
        }
        for bundle in bundles.values()
    ]
    assert contents[0] == contents[1]


def test_nothing_is_in_it_that_is_not_run_or_read(bundles: dict[str, Path]) -> None:
    kinds = {
        path.suffix
        for path in bundles["x86_64"].rglob("*")
        if path.is_file() and ".dist-info" not in str(path)
    }
    assert kinds == {".py", ".so", ".pem"}
    assert [path.name for path in bundles["x86_64"].rglob("*.pem")] == [
        "amazon-trust-services-roots.pem"
    ]
    assert not list(bundles["x86_64"].rglob("tests"))
    assert sum(path.stat().st_size for path in bundles["x86_64"].rglob("*")) < 25_000_000


def test_every_dependency_is_there_with_its_version_and_licence(bundles: dict[str, Path]) -> None:
    bundle = bundles["x86_64"]
    for entry in read_lock():
        information = bundle / f"{entry.name.replace('-', '_')}-{entry.version}.dist-info"
        assert (information / "METADATA").is_file()
        assert any((information / "licenses").iterdir()), entry.name


def test_it_holds_the_whole_agent(bundles: dict[str, Path]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "eic_agent"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    for name in tracked:
        if not name.endswith("py.typed"):
            source = (ROOT / name).read_bytes()
            # client.py is a program too, which here is only imported.
            expected = b"#" + source if source.startswith(b"#!") else source
            assert (bundles["x86_64"] / name).read_bytes() == expected
