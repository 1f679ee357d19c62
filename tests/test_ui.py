"""The page of `langchain-rerank ui` in a real browser, and the questions labelled on it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import httpx
import pytest
from langchain_core.documents import Document

from langchain_rerank import index_documents, ui
from langchain_rerank.evaluation import load_beir
from tests.support import free_port, wait_until

pytest.importorskip("gradio", reason="gradio is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.integration

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TEXTS = {
    "museums": "Berlin is well known for its museums. <b>Bold</b> claims [2].",
    "paris": "Paris had a population of 2,187,526 in 2017.",
    "berlin": "Berlin is large. It had a population of 3,520,031 in 2015.",
}
QUESTION = "How many people live in Berlin?"
FIELDS = {
    "Passages": ("Pasted passages", "Folder of texts", "Passages, with empty lines"),
    "Settings": (
        "k: passages",
        "fetch_k",
        "Weight",
        "Lowest score",
        "Hybrid",
        "Model A",
        "Model B",
    ),
}
# For whatever the page computes or loads meanwhile, on a busy machine.
PATIENCE = 60_000


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return tmp_path_factory.mktemp("labels") / "labelled"


def answers(url):
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def url(checkpoint, embeddings, labels, tmp_path_factory):
    """The page as users start it, in a process with a user's warnings."""
    folder = tmp_path_factory.mktemp("chroma")
    documents = [Document(text, id=key, metadata={"source": key}) for key, text in TEXTS.items()]
    index_documents(documents, embeddings, collection_name="page", persist_directory=str(folder))
    port = free_port()
    asked = ["--chroma", folder, "--collection", "page", "--labels", labels, "--port", str(port)]
    command = [sys.executable, "-m", "langchain_rerank.cli", "ui", "--backend", "onnx", *asked]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url) or process.poll() is not None, "the page", timeout=180)
        yield url
        process.terminate()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[1280, 400])
def page(browser, url, request):
    """The page, which asks nobody else for anything and is no wider than the window."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.set_default_timeout(PATIENCE)
    asked = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(url)
    page.get_by_role("button", name="Ask", exact=True).wait_for()
    yield page
    assert [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= request.param
    page.close()


def test_by_keyboard_alone_from_the_question_to_a_labelled_one(page, labels):
    page.keyboard.type(QUESTION)  # the question has the focus
    page.keyboard.press("Enter")
    best = page.locator("#rr0-1")
    best.wait_for()
    assert "▲ was" in best.inner_text() or "= was" in best.inner_text()
    assert page.locator("#rr0-1 mark").inner_text() == "It had a population of 3,520,031 in 2015."
    assert page.locator(".rr svg line").count() == 3
    assert page.locator(".rr li b >> text=Bold").count() == 0, "texts are no markup"
    assert "reranking" in page.get_by_role("status").first.inner_text()
    page.get_by_role("link", name="[1]").first.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#rr0-1")
    page.get_by_role("checkbox", name="[1] berlin").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Save as a labelled question").focus()
    page.keyboard.press("Enter")
    page.get_by_text("1 labelled questions").wait_for()
    data = load_beir(labels)
    assert list(data.queries.values()) == [QUESTION]
    assert list(data.qrels.values()) == [{"berlin": 1, "paris": 0, "museums": 0}]
    assert {one.id: one.page_content for one in data.documents} == TEXTS


def fill(page, section, settings):
    """Open a part of the page, and give its fields their values; True chooses one by its name."""
    button = page.get_by_role("button", name=section)
    if "open" not in button.get_attribute("class").split():
        button.click()
        # Gradio mounts the fields one after the other, each as its script comes, and what is
        # filled in before the last of them is there may be lost.
        for label in FIELDS[section]:
            page.get_by_label(label).first.wait_for()
        page.evaluate("new Promise(done => requestIdleCallback(() => requestIdleCallback(done)))")
    fields = {
        page.get_by_role("radio", name=name, exact=True)
        if value is True
        else page.get_by_label(name): value
        for name, value in settings.items()
    }
    for field, value in fields.items():
        field.check() if value is True else field.fill(value)
    for field, value in fields.items():
        found = playwright.expect(field)
        found.to_be_checked() if value is True else found.to_have_value(value)


def ask(page, question=QUESTION):
    page.get_by_label("Question", exact=True).fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


@pytest.mark.parametrize("page", [400], indirect=True)
def test_what_is_wrong_is_one_message_on_the_page(page):
    place = "Folder of texts, or collection of the Chroma"
    for question, section, settings, message in (
        (" ", "Settings", {"Model A": "offline"}, "query must hold text"),
        (QUESTION, "Settings", {"Model A": "/no/such"}, "/no/such"),
        (QUESTION, "Settings", {"Model A": " "}, "There is no model"),
        (QUESTION, "Settings", {"Model A": "offline"}, ""),
        (QUESTION, "Passages", {place: "none-such"}, "none-such"),
        (QUESTION, "Passages", {"Folder": True, place: "/nowhere"}, "expected a folder"),
        (QUESTION, "Passages", {"Pasted passages": True}, "There are no passages"),
    ):
        fill(page, section, settings)
        ask(page, question)
        if message:
            alert = page.get_by_role("alert").filter(has_text=message)
            alert.wait_for()
            assert alert.count() == 1
        else:
            page.locator("#rr0-1").wait_for()


def test_pasted_passages_two_models_and_a_threshold(page):
    pasted = {"Pasted passages": True, "Passages, with empty lines": "\n\n".join(TEXTS.values())}
    fill(page, "Passages", pasted)
    fill(page, "Settings", {"Model B": "offline", "number input for Lowest score kept": "0.9"})
    ask(page)
    for view in ("rr0", "rr1"):
        first = page.locator(f"#{view}-1")
        first.wait_for()
        assert "3,520,031" in first.inner_text()
    assert page.locator(".rr-before").first.locator("li").count() == 3
    assert "Below the threshold" in page.locator("#rr0-3").inner_text()


def test_a_question_judged_anew_replaces_its_judgments_and_nothing_else(tmp_path):
    folder, texts = tmp_path / "x", {"1": "one", "2": "two"}
    for question, grades, count in (
        ("a?", {"1": 1, "2": 0}, 1),
        ("b?", {"2": 1}, 2),
        ("a?", {"2": 1}, 2),
    ):
        assert ui.save_labels(folder, question, grades, texts) == count
        with (folder / "queries.jsonl").open("a") as file:
            file.write(f'{{"_id": "{question}{count}", "text": "not judged"}}\n')
    data = load_beir(folder)
    assert sorted(data.queries.values()) == ["a?", "b?"]
    assert list(data.qrels.values()) == [{"2": 1}, {"2": 1}]
    assert (folder / "queries.jsonl").read_text().count("not judged") == 3
