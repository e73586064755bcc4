"""Makes the screenshots of README and docs: ``python tests/dashboard/screenshots.py [--out FOLDER] [name ...]``.

The pages are those of the seeded fleet that the tests look at, so a picture shows what a test has seen. Each is below 150 kB.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(path) for path in (ROOT, HERE.parent, HERE.parent / "fleet", HERE.parent / "aggregator")]

from chromium_viewer import PHONE, Viewer, chromium, sign_in  # noqa: E402 - needs the path above
from dashboard_site import DashboardSite, make_seeded, serve_site  # noqa: E402 - as above
from mosquitto_broker import LocalCertificates  # noqa: E402 - as above
from seeded_training import aggregator_beside  # noqa: E402 - as above
from shown_pages import address  # noqa: E402 - as above

from service.roles import Role  # noqa: E402 - as above

FOLDER: Final = ROOT / "docs" / "images" / "dashboard"
LARGEST_BYTES: Final = 150_000


@dataclass(frozen=True)
class Picture:
    """A page, how it is looked at, and how much of its height is shown (px)."""

    path: str
    height: int = 860
    options: dict[str, Any] = field(default_factory=dict)


NIGHT: Final = {"color_scheme": "dark"}
PICTURES: Final = {
    "overview": Picture("/"),
    "overview-dark": Picture("/", options=NIGHT),
    "device": Picture("/devices/motor-01"),
    "inbox": Picture("/anomalies"),
    "rollout": Picture("/rollouts/{undone}"),
    "training-run": Picture("/training/{refused}"),
    "device-privacy": Picture("/devices/motor-01/privacy", height=760),
    "phone": Picture("/rollouts/{running}", options={"viewport": PHONE}),
}


def take(browser: Any, site: DashboardSite, cookies: list[Any], picture: Picture, file: Path) -> None:
    """Look at a page and keep what is seen."""
    size = picture.options.get("viewport", {"width": 1280, "height": picture.height})
    options = {"viewport": size} | picture.options
    with Viewer(browser, site, cookies, **options) as viewer:
        page = viewer.go(address(site, picture.path))
        page.wait_for_load_state("load")
        seen = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
        # a page has few colours: a palette shows them all, in a third of the bytes
        seen.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
        viewer.check_quiet()
    assert file.stat().st_size <= LARGEST_BYTES, f"{file.name} has {file.stat().st_size} bytes"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the screenshots of README and docs")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PICTURES)}; all where none is given")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fedge-pictures-") as name:
        folder = Path(name)
        certificates = LocalCertificates(folder / "certificates")
        make_seeded(folder / "seeded", is_polite=True)
        with (
            aggregator_beside(folder / "aggregator", certificates, is_polite=True) as settings,
            serve_site(folder / "seeded", certificates, more_settings=settings) as site,
            chromium(certificates.certificate) as browser,
        ):
            cookies = sign_in(browser, site, Role.ADMIN)
            for picture in given.names or PICTURES:
                take(browser, site, cookies, PICTURES[picture], given.out / f"{picture}.png")


if __name__ == "__main__":
    main()
