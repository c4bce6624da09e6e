"""Files of the machine on which the agent under test runs."""

import json
from collections.abc import Mapping
from pathlib import Path


def write_sysfs(root: Path, kind: str, instance_id: str) -> Path:
    """Lay out a /sys with the identity of a Nitro or a Xen instance, or of neither."""
    root.mkdir(parents=True, exist_ok=True)
    if kind == "nitro":
        dmi = root / "devices/virtual/dmi/id"
        dmi.mkdir(parents=True, exist_ok=True)
        (dmi / "board_asset_tag").write_text(instance_id + "\n")
        (dmi / "sys_vendor").write_text("Amazon EC2\n")
    elif kind == "xen":
        (root / "hypervisor").mkdir(exist_ok=True)
        (root / "hypervisor/uuid").write_text("ec2e1916-9099-7caf-fd21-012345abcdef\n")
    elif kind != "none":
        raise ValueError(f"{kind} is not nitro, xen or none")
    return root


def write_config(path: Path, tables: Mapping[str, Mapping[str, object]]) -> Path:
    """Write tables of strings, numbers, booleans, lists and lists of tables as TOML."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        arrays = []
        for key, value in table.items():
            if isinstance(value, list) and value and isinstance(value[0], Mapping):
                arrays += [(key, item) for item in value]
            else:
                lines.append(f"{key} = {_toml(value)}")
        for key, item in arrays:
            lines.append(f"[[{name}.{key}]]")
            lines += [f"{field} = {_toml(value)}" for field, value in item.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: object) -> str:
    # What JSON writes for these types is TOML too.
    return json.dumps(list(value) if isinstance(value, tuple) else value)
