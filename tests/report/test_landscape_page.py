"""The page of a landscape, opened in a browser: slider and switches work, and nothing is said on the console."""

from __future__ import annotations

import shutil

import pytest
import torch

from gatewise.landscape import landscape
from gatewise.methods import ActivationDescent, GradientDescent
from gatewise.network import Plane
from gatewise.report.landscape_page import write_page

from ..network.networks import mlp


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    methods = {"gd": GradientDescent(step_size=0.1), "adr-gd": ActivationDescent(step_size=0.1)}
    plane = Plane.inputs(torch.zeros(2, dtype=torch.float64))
    network = mlp(2, 10, 10, 1)
    scene = landscape(
        network, lambda x, y: y[:, 0], plane, 4.0, methods=methods, budget=16, radius=1.0, norm="l2", level=0.0
    )
    path = tmp_path_factory.mktemp("page") / "landscape.html"
    write_page(path, scene, "</script> & more")
    return path


def test_it_stands_alone(page_path):
    text = page_path.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert "SCENE" not in text
    assert text.count("</script>") == 2  # of the data and of the script: none comes from the title


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_slider_and_switches_work_without_a_word_on_the_console(page_path, browser):
    page = browser.new_page(viewport={"width": 1200, "height": 820})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_path.as_uri())
    assert page.locator("h1").inner_text() == "</script> & more"
    assert page.locator("#count").inner_text() == "step 16 of 16"

    back = "document.getElementById('back').toDataURL()"
    front = "document.getElementById('front').toDataURL()"
    names = page.locator("input[type=checkbox]").evaluate_all("boxes => boxes.map(box => box.name)")
    layers = ["surface", "regions", "zero lines", "gradients", "objective = 0", "l2 ball, radius 1"]
    assert sorted(names) == sorted([*layers, "path gd", "path adr-gd"])
    for name in names:
        canvas = front if name.startswith("path ") else back
        before = page.evaluate(canvas)
        page.locator(f"input[name='{name}']").click()
        assert page.evaluate(canvas) != before, f"{name} changes nothing"
        page.locator(f"input[name='{name}']").click()
        assert page.evaluate(canvas) == before, f"{name} does not come back"

    before, table = page.evaluate(front), page.locator("#table").inner_text()
    page.locator("#step").fill("2")
    assert page.locator("#count").inner_text() == "step 2 of 16"
    assert page.evaluate(front) != before
    assert page.locator("#table").inner_text() != table
    page.locator("#play").click()
    page.wait_for_function("document.getElementById('count').textContent !== 'step 2 of 16'")

    before = page.evaluate(back)
    page.locator("#front").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"before => {back} !== before", arg=before)
    page.locator("#front").dblclick()
    assert page.evaluate(back) == before
    page.close()
    assert said == []
