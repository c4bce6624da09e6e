"""Makes the bill of materials of a package: what it bundles, in CycloneDX 1.6 as JSON.

Every locked wheel for the architecture is a component, with the hash that it is locked by; what a
wheel's own bills of materials name is inside it, as OpenSSL and the Rust crates are inside of
cryptography. The same input gives the same bytes.
"""

import json
import uuid
import zipfile
from collections.abc import Iterator
from datetime import datetime, timezone
from email.parser import HeaderParser
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from wheels import PackagingError, locked_wheels, sha256

_NAMESPACE = uuid.UUID("6a1f6bd7-5c52-4a38-9d0c-4b0cfd3e33f9")


def bill_of_materials(wheels: Path, architecture: str, version: str, epoch: int) -> str:
    """Make the bill of materials of the package for one architecture, stamped with this time.

    Raises PackagingError where a locked wheel is missing, or the result is not CycloneDX.
    """
    bom = Bom(version=1)
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, timezone.utc)
    bom.metadata.component = Component(
        name="eic-agent",
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=f"eic-agent@{version}",
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        properties=[Property(name="architecture", value=architecture)],
    )
    of_name: dict[str, Component] = {}
    for wheel in locked_wheels(wheels, architecture):
        component = _component(wheel)
        # cffi is there once for each Python: one component, with every wheel's hash.
        if of_name.setdefault(component.name, component) is not component:
            of_name[component.name].hashes.update(component.hashes)
    bom.components.update(of_name.values())
    bom.register_dependency(bom.metadata.component, bom.components)
    bom.serial_number = uuid.uuid5(_NAMESPACE, f"{version} {architecture} {epoch}")
    text = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        raise PackagingError(f"the bill of materials is not CycloneDX 1.6: {problem}")
    return text


def _component(wheel: Path) -> Component:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        header = HeaderParser().parsestr(archive.read(metadata).decode("utf-8"))
        inside = [json.loads(archive.read(name)) for name in names if _is_bill(name)]
    name = header["Name"].replace("_", "-").lower()
    component = Component(
        name=name,
        version=header["Version"],
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}@{header['Version']}",
        purl=PackageURL("pypi", None, name, header["Version"]),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256(wheel))],
    )
    if licence := header["License-Expression"] or header["License"]:
        component.licenses.add(LicenseFactory().make_from_string(licence))
    for bill in inside:
        component.components.update(_inner(bill, component))
    return component


def _is_bill(name: str) -> bool:
    return ".dist-info/sboms/" in name and name.endswith(".json")


def _inner(bill: dict[str, list[dict[str, str]]], parent: Component) -> Iterator[Component]:
    """Name what a wheel's own bill names: the rest of it speaks of where the wheel was built."""
    for entry in bill.get("components", []):
        full = PackageURL.from_string(entry["purl"])
        purl = PackageURL(full.type, full.namespace, full.name, full.version)
        yield Component(
            name=entry["name"],
            version=entry["version"],
            type=ComponentType.LIBRARY,
            # A crate and a library in C may have one name.
            bom_ref=f"{parent.bom_ref}/{purl}",
            purl=purl,
        )
