"""The documentation site in a browser: links, formulas, search, colours, and the width of a telephone.

`make docs` builds it with the tools of the dependency group `docs`; Chromium and its driver are the system's (Debian:
``apt install chromium chromium-driver``). Without them these tests are skipped.
"""

from __future__ import annotations

import functools
import html.parser
import http.server
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PHONE, DESK = (390, 844), (1280, 900)


def needs(*modules: str, **programs: str) -> None:
    for name in modules:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; it belongs to the dependency group docs")
    for program, package in programs.items():
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install {package}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    needs("mkdocs", "material", "mkdocstrings", "nbconvert", "latex2mathml")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # it advertises a successor
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(html.parser.HTMLParser):
    """What a page refers to, and the places in it that may be referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("img", "script") and "src" in given:
            self.assets.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.assets.append(given["href"])


def test_no_dead_link_and_nothing_from_other_hosts(site: pathlib.Path) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 30
    problems = []
    for path, page in pages.items():
        for link in page.links + page.assets:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.assets:
                    problems.append(f"{path.name}: asks {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if path.name == "404.html":  # served for any path: its links begin at the root
                target = site / unquote(parts.path).lstrip("/")
                target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                problems.append(f"{path.relative_to(site)}: {link} is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                problems.append(f"{path.relative_to(site)}: {link} has no such place")
    assert not problems, "\n".join(problems)


def test_every_public_name_is_described(site: pathlib.Path) -> None:
    import fusedstep as fs
    from fusedstep import functional, reference, schedules

    names: list[str] = functional.__all__  # type: ignore[attr-defined]  # made of those of the reference

    text = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    for name in reference.__all__:
        assert f'id="fusedstep.reference.{name}"' in text, name
    for name in schedules.__all__:
        assert f'id="fusedstep.schedules.{name}"' in text, name
    for name in names:
        assert f"fusedstep.functional.{name}" in text, name
    for name in fs.__all__:
        places = (f'id="fusedstep.{name}"', f'id="fusedstep.optimizers.{name}"', f'id="fusedstep._core.{name}"')
        if not name.startswith("__") and not hasattr(getattr(fs, name), "__path__") and name != "functional":
            assert any(place in text for place in places), name


@pytest.fixture(scope="module")
def address(site: pathlib.Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    needs("selenium", chromium="chromium", chromedriver="chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # as without a network
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = str(shutil.which("chromium"))
    service = webdriver.ChromeService(executable_path=str(shutil.which("chromedriver")))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def show(browser: Any, url: str, size: tuple[int, int] = DESK, dark: bool = False) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(url)
    browser.execute_script("localStorage.clear()")
    browser.get(url)


def test_pages_load_without_errors(site: pathlib.Path, address: str, browser: Any) -> None:
    browser.get_log("browser")
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":
            continue
        browser.get(f"{address}/{path.relative_to(site).as_posix()}")
        errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors, (path.name, errors)
        broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert browser.execute_script(broken) == [], path.name


def test_search_finds_weight_decay(address: str, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, f"{address}/index.html")
    field = browser.find_element(By.CSS_SELECTOR, "input.md-search__input")
    field.click()
    field.send_keys("weight decay")
    found = WebDriverWait(browser, 30).until(
        lambda b: [e.get_attribute("href") for e in b.find_elements(By.CSS_SELECTOR, "a.md-search-result__link")]
    )
    assert any("choose" in link or "optimizers" in link for link in found), found
    assert browser.find_elements(By.CSS_SELECTOR, ".md-search-result__item mark")


def test_formulas_are_drawn(address: str, browser: Any) -> None:
    drawn = 0
    for page in ("api/reference.html", "api/optimizers.html"):
        show(browser, f"{address}/{page}")
        sizes = browser.execute_script(
            "return [...document.querySelectorAll('math')].map(m => {"
            "  const r = m.getBoundingClientRect(); return [r.width, r.height, m.textContent]; })"
        )
        drawn += len(sizes)
        assert all(width > 4 and height > 4 for width, height, text in sizes), page
        body = browser.execute_script("return document.body.innerText")
        assert "\\frac" not in body and "\\sqrt" not in body and ":math:" not in body, page
    assert drawn > 40


def contrast(first: list[float], second: list[float]) -> float:
    """The ratio of WCAG 2.1 of two colours."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


COLOURS = """
const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
const text = document.querySelector("article p"), back = document.body;
return [parse(getComputedStyle(text).color), parse(getComputedStyle(back).backgroundColor)];
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_colours_can_be_read(address: str, browser: Any, dark: bool, tmp_path: pathlib.Path) -> None:
    show(browser, f"{address}/quickstart.html", dark=dark)
    text, back = browser.execute_script(COLOURS)
    assert (sum(back[:3]) < 384) == dark
    assert contrast(text, back) > 7 * (len(text) == 3) + 4 * (len(text) == 4)  # a transparent text is drawn lighter
    browser.save_screenshot(str(tmp_path / "page.png"))


@pytest.mark.parametrize("page", ["index", "quickstart", "formats", "api/torch", "memory", "benchmark-figures"])
def test_nothing_runs_off_a_telephone(address: str, browser: Any, page: str, tmp_path: pathlib.Path) -> None:
    show(browser, f"{address}/{page}.html", size=PHONE)
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= PHONE[0], width
    browser.save_screenshot(str(tmp_path / "page.png"))
