"""``python3 deploy/lib/assets.py``: from node_modules to web/static/vendor, the only files that the panel serves.

The icons that templates use are listed in web/static/icons.txt, one name a line (``server``, or ``star:filled``);
the sprite has each as ``<symbol id="server">`` or ``<symbol id="star-filled">``, so a template writes
``<svg class="icon"><use href="…/vendor/icons.svg#server"/></svg>``.
"""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "node_modules"
VENDOR = ROOT / "web/static/vendor"
ICONS = ROOT / "web/static/icons.txt"

FILES = {
    "htmx.min.js": "htmx.org/dist/htmx.min.js",
    "idiomorph-ext.min.js": "idiomorph/dist/idiomorph-ext.min.js",
    "tabler.min.css": "@tabler/core/dist/css/tabler.min.css",
    "tabler.min.js": "@tabler/core/dist/js/tabler.min.js",
}
LICENCES = {
    "htmx.LICENSE": "htmx.org/LICENSE",
    "idiomorph.LICENSE": "idiomorph/LICENSE",
    "tabler.LICENSE": "@tabler/core/LICENSE",
    "tabler-icons.LICENSE": "@tabler/icons/LICENSE",
}

# The maps are not shipped, and Django's manifest storage refuses a file that names a missing one.
SOURCE_MAP = re.compile(rb"(?m)^(//# sourceMappingURL=.*|/\*# sourceMappingURL=.*\*/)\s*$")


def main() -> None:
    new = VENDOR.with_name("vendor.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for target, source in FILES.items():
        (new / target).write_bytes(SOURCE_MAP.sub(b"", (MODULES / source).read_bytes()))
    for target, source in LICENCES.items():
        if (MODULES / source).exists():
            shutil.copyfile(MODULES / source, new / target)
    (new / "icons.svg").write_text(sprite(icon_names()))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(new.iterdir())}
    (new / "manifest.json").write_text(json.dumps(digests, indent=1) + "\n")
    shutil.rmtree(VENDOR, ignore_errors=True)
    new.rename(VENDOR)
    print(f"{len(digests)} files in {VENDOR.relative_to(ROOT)}")


def icon_names() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in ICONS.read_text().splitlines())
    return sorted({line for line in lines if line})


def sprite(names: list[str]) -> str:
    symbols, unknown = [], []
    for entry in names:
        name, _, style = entry.partition(":")
        path = MODULES / f"@tabler/icons/icons/{style or 'outline'}/{name}.svg"
        if path.exists():
            symbols.append(symbol(path.read_text(), f"{name}-{style}" if style else name, filled=style == "filled"))
        else:
            unknown.append(entry)
    if unknown:
        sys.exit(f"{ICONS.relative_to(ROOT)} names icons that Tabler does not have: {', '.join(unknown)}")
    return f'<svg xmlns="http://www.w3.org/2000/svg">\n{"".join(symbols)}</svg>\n'


def symbol(svg: str, identity: str, filled: bool) -> str:
    """The drawing inside ``<svg>``; how it is drawn must go along, for a ``<use>`` takes nothing from the file."""
    inner = re.search(r"<svg[^>]*>(.*)</svg>", svg, re.DOTALL)
    if inner is None:
        raise ValueError(f"icon {identity} is not an SVG")
    shapes = re.sub(r"\s*\n\s*", "", inner[1])
    shapes = shapes.replace('<path stroke="none" d="M0 0h24v24H0z" fill="none" />', "")
    style = (
        'fill="currentColor"'
        if filled
        else 'fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"'
    )
    return f'<symbol id="{identity}" viewBox="0 0 24 24" {style}>{shapes}</symbol>\n'


if __name__ == "__main__":
    main()
