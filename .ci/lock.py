"""Print the installed versions of what proxlab and its extras require, as constraints for pip."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("study", "analysis", "test", "dev", "docs", "torch", "pretrained")

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
lines = [*project["dependencies"], *(r for e in EXTRAS for r in project["optional-dependencies"][e])]
found: dict[str, str] = {}
waiting = [Requirement(line) for line in lines]
seen = set()
while waiting:
    wanted = waiting.pop()
    name = canonicalize_name(wanted.name)
    key = (name, frozenset(wanted.extras))
    if key in seen or name == "proxlab":
        continue
    seen.add(key)
    try:
        package = distribution(name)
    except PackageNotFoundError:
        continue
    found[name] = package.version
    for requirement in map(Requirement, package.requires or ()):
        extras = wanted.extras or {""}
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in extras):
            waiting.append(requirement)
print(f"# make lock, Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}")
print("\n".join(sorted(f"{name}=={version}" for name, version in found.items())))
