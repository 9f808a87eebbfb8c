"""The page in real Chromium, against the real service.

One service and one browser for the file; a context for each test. Answers are compared with what the service says when
asked without the page. `new_page` fails a test that leaves an error in the console; one that expects some clears them.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import onnx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from pnag.models.space.metric import Metric

Service = Any
"""Of conftest.py, which cannot be imported by name."""

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
AXE = (Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js").read_text()
WEIGHT_LIMIT_BYTES = 500_000
SETTLED = "main[data-state=answered][aria-busy=false]"
ASK = "**/generate/batch"
WAIT_MS = 40_000
"""What a busy machine may need; waiting ends as soon as there is something to see."""
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Of this module, not of the session: while Playwright runs, no other test of this thread could use asyncio.
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing, and the page's tests need a real browser: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, service: Service) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=service.url, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


@pytest.fixture
def errors() -> list[str]:
    """What the console said; a test that expects errors empties it."""
    return []


@pytest.fixture
def new_page(context: BrowserContext, errors: list[str]) -> Iterator[Callable[..., Page]]:
    def make(address: str = "/", *, width: int = 1440, height: int = 900, wait_for: str = SETTLED) -> Page:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector(wait_for)
        return page

    yield make
    assert errors == []


# -- what is on the page ---------------------------------------------------------------------------------------------


def budget_of(page: Page) -> float:
    return float(page.locator("#budget").input_value())


def verdict_of(page: Page) -> float:
    return float(page.locator("#verdict").inner_text().split("\u202f")[0])


def address_of(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def shows(page: Page, service: Service, **question: Any) -> dict[str, Any]:
    """Waits until the page shows what the service answers to this, and returns that answer."""
    answer: dict[str, Any] = service.ask("/generate", {"bundle": "steady", **question})
    expect(page.locator("#verdict")).to_have_text(f"{answer['predicted']['top1_percent']:.2f}\u202f%")
    expect(page.locator("#network-meta")).to_contain_text(answer["architecture"]["id"])
    return answer


def blocks(page: Page) -> list[list[list[int]]]:
    """(kernel size, expand ratio) of each block as it is drawn, per row."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".row")].map((row) => [...row.querySelectorAll(".block:not(.is-ghost)")]
            .map((b) => [+b.style.getPropertyValue("--kernel"), +b.style.getPropertyValue("--expand")]))"""
    )


def serious_findings(page: Page) -> list[str]:
    page.evaluate(AXE)  # through the debugger: the page's policy lets no foreign script in
    violations = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{v['id']}: {v['help']} {[node['html'][:90] for node in v['nodes']]}"
        for v in violations
        if v["impact"] in ("serious", "critical", "moderate")
    ]


def plot_box(page: Page) -> dict[str, float]:
    box = page.locator(".u-over").bounding_box()
    assert box
    return {side: box[side] for side in ("x", "y", "width", "height")}


def line_x(page: Page) -> float:
    """Where the budget's line is on the screen: the slider's thumb is below it while the whole front is in sight."""
    return page.evaluate(
        """() => { const s = document.querySelector("#slider"), b = s.getBoundingClientRect();
            return b.left + 11 + (b.width - 22) * s.value / s.max; }"""
    )


# -- opening ---------------------------------------------------------------------------------------------------------


def test_the_page_opens_with_an_answer_under_500_kb(context: BrowserContext, new_page: Callable[..., Page]) -> None:
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    devtools.send("Network.enable")
    sent: list[float] = []
    devtools.on("Network.loadingFinished", lambda event: sent.append(event["encodedDataLength"]))
    page.goto("/")
    page.wait_for_selector(SETTLED)
    assert 8 < len(sent) < 30
    assert sum(sent) < WEIGHT_LIMIT_BYTES
    assert "networks of it: from" in (page.locator("#chart").get_attribute("aria-label") or "")
    assert page.locator("#chart canvas").count() == 2
    new_page()  # and once more for errors in the console


def test_everything_comes_from_the_service_itself(context: BrowserContext, service: Service) -> None:
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto("/?compare=swift")
    page.wait_for_selector(SETTLED)
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {urlsplit(service.url).netloc}


def test_the_drawing_is_the_network_of_the_answer(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=6.2")
    network = shows(page, service, budget_ms=6.2)["architecture"]
    drawn = [[tuple(block) for block in row] for row in blocks(page)]
    assert drawn == [
        list(zip(*unit, strict=True)) for unit in zip(network["kernel_sizes"], network["expand_ratios"], strict=True)
    ]


# -- the budget ------------------------------------------------------------------------------------------------------


def test_dragging_the_line_in_the_chart_moves_the_budget(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=6")
    box, start = plot_box(page), line_x(page)
    page.mouse.move(start, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(start + 15 * step, box["y"] + box["height"] / 2)
    page.mouse.up()
    budget_ms = budget_of(page)
    assert budget_ms > 6.3
    assert line_x(page) == pytest.approx(start + 120, abs=3)
    shows(page, service, budget_ms=budget_ms)
    page.wait_for_url(f"**budget_ms={budget_ms:g}")


def test_dragging_the_slider_answers_on_the_way(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=6")
    thumb_y = page.locator("#slider").bounding_box()["y"] + 20  # type: ignore[index]
    seen = [verdict_of(page)]
    page.mouse.move(line_x(page), thumb_y)
    page.mouse.down()
    for _ in range(5):
        page.mouse.move(line_x(page) + 40, thumb_y)
        expect(page.locator("main")).to_have_attribute("aria-busy", "false")  # the button is still down
        seen.append(verdict_of(page))
    page.mouse.up()
    assert seen == sorted(set(seen))
    shows(page, service, budget_ms=budget_of(page))


def test_a_typed_budget_is_asked_for_as_it_is(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page()
    page.locator("#budget").fill("5.123")
    shows(page, service, budget_ms=5.123)
    assert page.locator("#slider").get_attribute("aria-valuetext") == "5.123 milliseconds"
    page.wait_for_url("**budget_ms=5.123")


def test_half_a_number_changes_nothing(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=6")
    page.locator("#budget").fill("")
    page.locator("#budget").press("Tab")
    expect(page.locator("#budget")).to_have_value("6")
    shows(page, service, budget_ms=6)


def test_an_infeasible_budget_shows_the_fastest_network_and_its_budget(
    new_page: Callable[..., Page], service: Service
) -> None:
    page = new_page()
    page.locator("#budget").fill("0.5")
    page.wait_for_selector("main[data-state=infeasible]")
    expect(page.locator("#verdict")).to_have_text("no network fits")
    assert all(block == [3, 3] for row in blocks(page) for block in row)
    smallest = service.ask("/bundles")["bundles"][0]["smallest_feasible_ms"]
    page.get_by_role("button", name=re.compile(r"^Use ")).click()
    assert budget_of(page) == smallest
    shows(page, service, budget_ms=smallest)


def test_a_limit_binds_and_is_part_of_the_address(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=8")
    page.get_by_label("Limit of MACs").fill("240")
    answer = shows(page, service, budget_ms=8, limits={"macs_m": 240})
    assert answer["binding"] == "macs"
    expect(page.locator("#binding")).to_have_text("The MACs limit binds")
    expect(page.locator("#cost-macs")).to_have_class(re.compile("is-binding"))
    page.wait_for_url("**macs_m=240")


def test_a_limit_that_rules_out_every_network_can_be_dropped(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=8")
    page.get_by_label("Limit of parameters").fill("1")
    page.wait_for_selector("main[data-state=infeasible]")
    page.get_by_role("button", name="Drop that limit").click()
    shows(page, service, budget_ms=8)
    assert page.get_by_label("Limit of parameters").input_value() == ""


def test_coverage_moves_the_bound(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=6")
    careful = shows(page, service, budget_ms=6)
    page.locator("#coverage").select_option("0.5")
    plain = shows(page, service, budget_ms=6, coverage=0.5)
    assert plain["predicted"]["top1_percent"] > careful["predicted"]["top1_percent"]
    page.wait_for_url("**coverage=0.5")


def test_the_next_tenth_of_a_percent_has_its_price(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=6")
    answer = shows(page, service, budget_ms=6)
    page.locator(".step").nth(1).click()
    better = shows(page, service, budget_ms=budget_of(page))
    gained = better["predicted"]["top1_percent"] - answer["predicted"]["top1_percent"]
    assert gained == pytest.approx(0.1, abs=0.02)


def test_what_changed_is_marked_and_told(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=5")
    before = shows(page, service, budget_ms=5)["architecture"]
    page.locator("#budget").fill("6")
    after = shows(page, service, budget_ms=6)["architecture"]

    def layers(network: dict[str, Any]) -> dict[tuple[int, int], tuple[int, int]]:
        units = zip(network["kernel_sizes"], network["expand_ratios"], strict=True)
        return {(u, j): pair for u, unit in enumerate(units) for j, pair in enumerate(zip(*unit, strict=True))}

    old, new = layers(before), layers(after)
    changed = {place for place in new if new[place] != old.get(place)}
    removed = old.keys() - new.keys()
    assert changed
    assert page.locator(".block.is-changed").count() == len(changed)
    assert page.locator(".block.is-ghost").count() == len(removed)
    expect(page.locator("#changes")).to_contain_text(f"{len(changed) + len(removed)} change")


# -- order and failure -----------------------------------------------------------------------------------------------


def test_an_answer_that_comes_late_does_not_replace_a_newer_one(
    new_page: Callable[..., Page], service: Service
) -> None:
    page = new_page("/?budget_ms=6")
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if "[5]" in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    page.route(ASK, hold_the_first)
    with page.expect_request(ASK):
        page.locator("#budget").fill("5")
    page.locator("#budget").fill("7")
    shows(page, service, budget_ms=7)
    for route in held:
        late = service.ask("/generate/batch", {"budgets_ms": [5], "bundle": "steady"})
        route.fulfill(json=late)
    assert held
    # One more question: by the time it is answered, the late answer has been dealt with.
    page.locator("#budget").fill("7.5")
    shows(page, service, budget_ms=7.5)
    page.locator("#budget").fill("7")
    shows(page, service, budget_ms=7)


def test_a_slow_answer_is_waited_for_and_said_to_be(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=6")
    held: list[Route] = []
    page.route(ASK, lambda route: held.append(route))
    with page.expect_request(ASK):
        page.locator("#budget").fill("7")
    expect(page.locator("main")).to_have_attribute("aria-busy", "true")
    held[0].continue_()
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    shows(page, service, budget_ms=7)


def test_an_overloaded_service_is_asked_again(
    new_page: Callable[..., Page], service: Service, errors: list[str]
) -> None:
    page = new_page("/?budget_ms=6")
    problem = {"type": "urn:pnag:problem:overloaded", "title": "Overloaded", "status": 503, "detail": "busy"}
    page.route(
        ASK,
        lambda route: route.fulfill(
            status=503, json=problem, content_type="application/problem+json", headers={"retry-after": "1"}
        ),
        times=1,
    )
    page.locator("#budget").fill("7")
    expect(page.locator("#notice-text")).to_contain_text("asking again in")
    shows(page, service, budget_ms=7)
    expect(page.locator("#notice")).to_be_hidden()
    assert all("503" in error for error in errors)
    errors.clear()


def test_a_killed_service_leaves_its_last_answer_and_is_found_again(
    new_page: Callable[..., Page], service: Service, errors: list[str]
) -> None:
    page = new_page("/?budget_ms=6")
    answer = shows(page, service, budget_ms=6)
    try:
        service.kill()
        page.locator("#budget").fill("7")
        page.wait_for_selector("main[data-state=gone]")
        expect(page.locator("#notice-text")).to_contain_text("last answer, for 6\u202fms")
        expect(page.locator("#network-meta")).to_contain_text(answer["architecture"]["id"])
        expect(page.get_by_role("button", name="Try now")).to_be_visible()
    finally:
        service.start()
    shows(page, service, budget_ms=7)
    expect(page.locator("#notice")).to_be_hidden()
    assert all("ERR_CONNECTION" in error or "ERR_EMPTY_RESPONSE" in error for error in errors)
    errors.clear()


def test_a_key_is_asked_for_where_one_is_needed(
    context: BrowserContext, new_page: Callable[..., Page], errors: list[str]
) -> None:
    problem = {"type": "urn:pnag:problem:unauthorized", "title": "No key", "status": 401, "detail": "send an API key"}

    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer pnag_secret":
            route.continue_()
        else:
            route.fulfill(status=401, json=problem, content_type="application/problem+json")

    for path in ("**/bundles", "**/bundles/*/known", "**/pareto-front*", ASK):
        context.route(path, guard)
    page = new_page(wait_for="dialog[open]")
    assert serious_findings(page) == []
    page.get_by_label("API key").fill("pnag_secret")
    page.get_by_role("button", name="Go on").click()
    page.wait_for_selector(SETTLED)
    assert "pnag_secret" not in page.url
    assert all("401" in error for error in errors)
    errors.clear()


# -- tabs, bundles, addresses ----------------------------------------------------------------------------------------


def test_two_tabs_do_not_disturb_each_other(new_page: Callable[..., Page], service: Service) -> None:
    one, two = new_page("/?budget_ms=5"), new_page("/?budget_ms=8")
    two.locator("#budget").fill("7")
    one.locator("#budget").fill("6")
    shows(one, service, budget_ms=6)
    shows(two, service, budget_ms=7)
    one.wait_for_url("**budget_ms=6")
    two.wait_for_url("**budget_ms=7")


def test_an_address_opens_the_same_page_elsewhere(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=8")
    page.get_by_label("Limit of MACs").fill("260")
    page.locator("#coverage").select_option("0.9")
    shows(page, service, budget_ms=8, coverage=0.9, limits={"macs_m": 260})
    page.wait_for_url("**macs_m=260")
    other = new_page(page.url)
    shows(other, service, budget_ms=8, coverage=0.9, limits={"macs_m": 260})
    assert address_of(other) == {"bundle": "steady", "budget_ms": "8", "coverage": "0.9", "macs_m": "260"}


def test_a_metric_of_ones_own_is_shown_in_its_unit(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?bundle=units&budget_ms=6")
    answer = service.ask("/generate", {"bundle": "units", "budget_ms": 6})
    (body,) = [bundle for bundle in service.ask("/bundles")["bundles"] if bundle["name"] == "units"]
    millimetres = Metric.from_dict(body["accuracy"]["metric"]).value(answer["predicted"]["top1_percent"] / 100)
    expect(page.locator("#verdict")).to_have_text(re.compile(rf"^{millimetres:.4g}\u202fmm$"))
    expect(page.locator("#axis-y")).to_have_text("error, mm")
    expect(page.locator("#next-title")).to_have_text("What the next 0.2\u202fmm costs")
    errors = [float(row) for row in page.locator("#front-rows td:nth-child(2)").all_text_contents()]
    assert errors == sorted(errors, reverse=True), "to minimise: slower networks err less"
    assert page.locator("#compare option").all_text_contents() == ["nothing"], "no other bundle measures this"


def test_another_bundle_and_a_second_front(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page()
    page.get_by_label("Compare").select_option("swift")
    expect(page.locator("#compared")).to_contain_text("Swift phone")
    expect(page.locator("#legend")).to_contain_text("Swift phone")
    page.wait_for_url("**compare=swift**")
    page.get_by_label("Bundle").select_option("swift")
    page.wait_for_selector(SETTLED)
    expect(page.locator("#under-device")).to_contain_text("Swift phone")
    shows(page, service, budget_ms=budget_of(page), bundle="swift")


def test_a_space_of_stages_is_drawn_too(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?bundle=tiny&budget_ms=6")
    stages = shows(page, service, budget_ms=6, bundle="tiny")["architecture"]["stages"]
    assert page.locator(".block:not(.is-ghost)").count() == sum(len(stage) for stage in stages)


def test_a_space_of_plain_choices_is_a_list(new_page: Callable[..., Page], context: BrowserContext) -> None:
    def plain(route: Route) -> None:
        body = route.fetch().json()
        for result in body["results"]:
            architecture = result["architecture"]
            stages = architecture.pop("stages")
            architecture["choices"] = {f"layer{i}": option for i, option in enumerate(sum(stages, []))}
        route.fulfill(json=body)

    context.route(ASK, plain)
    page = new_page("/?bundle=tiny&budget_ms=2")
    page.locator("#budget").fill("10")
    expect(page.locator(".choice.is-changed").first).to_be_visible()
    assert page.locator(".choice").count() == 8
    assert serious_findings(page) == []


# -- the chart -------------------------------------------------------------------------------------------------------


def test_dragging_across_the_chart_zooms_and_a_double_click_goes_back(new_page: Callable[..., Page]) -> None:
    page = new_page("/?budget_ms=4")
    box = plot_box(page)
    left, top = box["x"] + box["width"] * 0.5, box["y"] + 20
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 120, top + 90, steps=3)
    page.mouse.up()
    whole = page.locator("#zoom-reset")
    expect(whole).to_be_enabled()
    assert budget_of(page) == 4
    page.mouse.dblclick(box["x"] + 60, box["y"] + 200)
    expect(whole).to_be_disabled()
    assert budget_of(page) == 4
    page.get_by_role("button", name="Zoom in").click()
    expect(whole).to_be_enabled()
    whole.click()
    expect(whole).to_be_disabled()


def test_a_network_under_the_pointer_says_what_it_is_and_can_be_chosen(
    new_page: Callable[..., Page], service: Service
) -> None:
    page = new_page("/?budget_ms=4")
    page.locator("#budget").fill("7")
    shows(page, service, budget_ms=7)
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    box, x = plot_box(page), line_x(page)
    page.locator("#budget").fill("4")
    shows(page, service, budget_ms=4)
    # Somewhere above that place runs the front: go down until something is under the pointer.
    for y in range(int(box["y"]) + 4, int(box["y"] + box["height"]), 6):
        page.mouse.move(x, y)
        if page.locator(".tip").is_visible():
            break
    expect(page.locator(".tip")).to_contain_text("On the front")
    page.mouse.click(x, y)
    assert budget_of(page) == pytest.approx(7, abs=0.2)
    shows(page, service, budget_ms=budget_of(page))


# -- taking the network ----------------------------------------------------------------------------------------------


def test_what_is_copied_runs_and_gives_this_network(
    context: BrowserContext, new_page: Callable[..., Page], service: Service
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = new_page("/?budget_ms=6&macs_m=250")
    encoding = shows(page, service, budget_ms=6, limits={"macs_m": 250})["architecture"]["encoding"]

    def copied(button: str) -> str:
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.locator(".take .is-done")).to_have_text("Copied")
        text: str = page.evaluate("navigator.clipboard.readText()")
        expect(page.locator(".take .is-done")).to_have_count(0)
        return text

    assert copied("Copy encoding") == encoding
    curl = subprocess.run(copied("curl"), shell=True, check=True, capture_output=True, text=True, timeout=30)
    assert f'"encoding":"{encoding}"' in curl.stdout
    python = [sys.executable, "-c", copied("Python")]
    assert subprocess.run(python, check=True, capture_output=True, text=True, timeout=30).stdout.startswith(encoding)


def test_a_bundle_without_weights_says_how_to_get_the_model(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=6")
    encoding = shows(page, service, budget_ms=6)["architecture"]["encoding"]
    command = f"pnag export --bundle bundles/steady --architecture {encoding} --weights FILE --out model.onnx"
    expect(page.locator("#export-command")).to_have_text(command)
    expect(page.locator("#download")).to_be_hidden()


@pytest.mark.parametrize("has_key", [False, True])
def test_the_network_is_downloaded_where_the_bundle_has_its_weights(
    context: BrowserContext, new_page: Callable[..., Page], service: Service, has_key: bool
) -> None:
    sent: list[str | None] = []

    def watch(route: Route) -> None:
        sent.append(route.request.headers.get("authorization"))
        route.continue_()

    context.route("**/model.onnx*", watch)
    page = new_page("/?bundle=tiny&budget_ms=5")
    answer = shows(page, service, bundle="tiny", budget_ms=5)
    if has_key:
        page.evaluate("sessionStorage.setItem('pnag-key', 'pnag_secret')")
    with page.expect_download() as caught:
        page.get_by_role("link", name="Download ONNX").click()
    assert caught.value.suggested_filename.endswith(".onnx")
    content = Path(caught.value.path()).read_bytes()
    said = {p.key: p.value for p in onnx.ModelProto.FromString(content).metadata_props}
    assert said["encoding"] == answer["architecture"]["encoding"]
    assert ("Bearer pnag_secret" in sent) == has_key
    expect(page.locator("#weights")).to_be_hidden()


# -- for everybody ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [320, 400, 768, 1440, 2200])
def test_nothing_sticks_out_at_any_width(new_page: Callable[..., Page], width: int) -> None:
    page = new_page("/?compare=swift&budget_ms=6", width=width)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    outside = page.evaluate(
        """() => [...document.querySelectorAll("main *, header *")].filter((e) => {
            const box = e.getBoundingClientRect();
            return box.width > 1 && box.right > innerWidth + 1 && !e.closest(".scroll, code, .hidden");
        }).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 1440), ("light", 400), ("dark", 400)])
def test_axe_has_nothing_to_say(new_page: Callable[..., Page], theme: str, width: int) -> None:
    page = new_page("/?compare=swift&budget_ms=6", width=width)
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
    page.locator("#budget").fill("7")
    page.locator("summary").click()
    expect(page.locator(".block.is-changed").first).to_be_visible()
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    assert serious_findings(page) == []
    page.locator("#budget").fill("1")
    page.wait_for_selector("main[data-state=infeasible][aria-busy=false]")
    assert serious_findings(page) == []


def test_dark_is_dark_and_a_choice_of_theme_lasts(new_page: Callable[..., Page]) -> None:
    page = new_page()
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert light != dark
    page.get_by_role("button", name="Theme: auto").click()
    assert page.evaluate(background) == light
    page.reload()
    page.wait_for_selector(SETTLED)
    assert page.evaluate(background) == light
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()


def test_the_keyboard_is_enough(context: BrowserContext, new_page: Callable[..., Page], service: Service) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = new_page("/?budget_ms=6")
    reached: list[str] = []
    focused = "document.activeElement.id || document.activeElement.className"

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(focused))
            if reached[-1] == name:
                return
        pytest.fail(f"{name} cannot be reached: {reached}")

    tab_to("skip")
    tab_to("budget")
    page.keyboard.press("Control+A")
    page.keyboard.type("5.5")
    shows(page, service, budget_ms=5.5)
    tab_to("slider")
    page.keyboard.press("ArrowRight")
    one_step = budget_of(page)
    assert one_step > 5.5
    page.keyboard.press("End")
    shows(page, service, budget_ms=budget_of(page))
    page.keyboard.press("Home")
    assert budget_of(page) == service.ask("/bundles")["bundles"][0]["smallest_feasible_ms"]
    answer = shows(page, service, budget_ms=budget_of(page))
    tab_to("copy-encoding")
    page.keyboard.press("Enter")
    expect(page.locator("#copy-encoding")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == answer["architecture"]["encoding"]
    tab_to("limit-macs_m")
    assert reached.count("bundle") == 1


def test_an_answer_is_spoken_once_the_slider_rests(new_page: Callable[..., Page], service: Service) -> None:
    page = new_page("/?budget_ms=6")
    page.locator("#slider").press("PageUp")
    answer = shows(page, service, budget_ms=budget_of(page))
    spoken = page.locator("#said")
    expect(spoken).to_contain_text(f"{answer['predicted']['top1_percent']:.2f} percent top-1 within")


# -- /docs -----------------------------------------------------------------------------------------------------------


def test_the_docs_list_every_request_and_try_one_without_another_host(
    new_page: Callable[..., Page], context: BrowserContext, service: Service
) -> None:
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = new_page("/docs", wait_for="rapi-doc >> text='/generate/batch'")
    for path in service.ask("/openapi.json")["paths"]:
        expect(page.get_by_text(path, exact=True).first).to_be_attached()
    page.get_by_text("/healthz", exact=True).first.click()
    with page.expect_response("**/healthz") as response:
        page.get_by_role("button", name="TRY").click()
    assert response.value.status == 200
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(service.url).netloc}
