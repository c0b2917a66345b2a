"""The seller's way in a real browser: from the link over TikTok's consent page (its stand-in) to the public endpoint.

Needs the command as BINARY and a folder for the screenshots as SCREENSHOTS; see .ci/browser.
"""

import os
import pathlib
import re
import subprocess
import time

import pytest
from playwright.sync_api import sync_playwright

BINARY = os.environ["BINARY"]
SCREENSHOTS = pathlib.Path(os.environ["SCREENSHOTS"])
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PHONE = {"width": 360, "height": 740}
LOOKS = [(language, scheme) for language in ("en-US", "vi-VN") for scheme in ("light", "dark")]

HEADINGS = {
    "en-US": {
        "connected": "Phở Mới is connected",
        "again": "Your shop is connected",
        "declined": "Not connected",
        "expired": "This link has expired",
        "bad": "This link does not work",
        "another": "This is another shop",
    },
    "vi-VN": {
        "connected": "Phở Mới đã được kết nối",
        "again": "Cửa hàng của bạn đã được kết nối",
        "declined": "Chưa kết nối",
        "expired": "Liên kết này đã hết hạn",
        "bad": "Liên kết này không dùng được",
        "another": "Đây là một cửa hàng khác",
    },
}


class Stack:
    """The local stack, in a folder of its own."""

    def __init__(self, folder):
        arguments = [BINARY, "local", "--port", "0"]
        self.process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if found := re.match(r"  Lambda +(\S+),", line):
                self.endpoint = found[1]
                return
        raise AssertionError("the stack did not start")

    def link(self, integration_id, *more):
        ids = ["--team-id", "9", "--integration-id", integration_id]
        command = [BINARY, "connect-link", "--endpoint-url", self.endpoint, *ids, *more]
        environment = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert re.fullmatch(r"http://\S+\n", told), "the link alone"
        return told.strip()


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("stack"))
    yield stack
    stack.process.terminate()
    stack.process.wait()


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Seller:
    """A seller at a phone, who sees each page whole and without a complaint of the browser's."""

    def __init__(self, chromium, language, scheme):
        self.language, self.scheme = language, scheme
        self.context = chromium.new_context(viewport=PHONE, locale=language, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints = []
        # The console repeats the status of a page that is no success.
        self.page.on("console", lambda line: self.complaints.append(line.text))

    def open(self, link):
        self.page.goto(link)

    def choose(self, seller, answer):
        self.page.check(f"input[value='{seller}']")
        with self.page.expect_response(re.compile("/connect")) as response:
            self.page.click(f"button[value={answer}]")
        return response.value.status

    def sees(self, name):
        page = self.page
        page.wait_for_selector("main h1")
        page.screenshot(path=SCREENSHOTS / f"{name}-{self.language}-{self.scheme}.png")
        assert page.inner_text("h1") == HEADINGS[self.language][name]
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it fits a phone"
        assert page.get_attribute("html", "lang") == self.language[:2]
        # The style sheet passed the page's own policy.
        assert page.evaluate("getComputedStyle(document.querySelector('main')).borderTopWidth") == "5px"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 18, 22)"
        assert dark == (self.scheme == "dark")
        refused = [each for each in self.complaints if "Failed to load resource" not in each]
        assert not refused
        self.complaints.clear()


@pytest.fixture(params=LOOKS, ids="-".join)
def seller(chromium, request):
    seller = Seller(chromium, *request.param)
    yield seller
    seller.context.close()


def test_a_seller_connects_a_shop_and_reloads_the_page(stack, seller):
    seller.open(stack.link(f"new-{seller.language}-{seller.scheme}"))
    assert seller.choose("seller-new", "authorize") == 200
    seller.sees("connected")
    assert seller.page.reload().status == 200
    seller.sees("again")


def test_a_seller_who_declines_may_open_the_link_again(stack, seller):
    link = stack.link(f"declined-{seller.language}-{seller.scheme}")
    seller.open(link)
    assert seller.choose("seller-new", "decline") == 200
    seller.sees("declined")
    seller.open(link)
    assert seller.choose("seller-new", "authorize") == 200
    seller.sees("connected")


def test_another_seller_is_told_that_this_is_another_shop(stack, seller):
    link = stack.link(f"taken-{seller.language}-{seller.scheme}")
    seller.open(link)
    assert seller.choose("seller-new", "authorize") == 200
    seller.open(link)
    assert seller.choose("seller-101", "authorize") == 409
    seller.sees("another")


def test_an_expired_link_says_so(stack, seller):
    made_at = time.time()
    seller.open(stack.link("late", "--valid-for", "1s"))
    # The stack goes by the real clock.
    while time.time() < made_at + 2.5:
        time.sleep(0.1)
    assert seller.choose("seller-new", "authorize") == 400
    seller.sees("expired")


def test_a_link_that_was_cut_off_does_not_work(stack, seller):
    seller.open(stack.link("cut")[:-3])
    assert seller.choose("seller-new", "authorize") == 400
    seller.sees("bad")
