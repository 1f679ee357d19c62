"""The page in a real browser, and the folder of labelled questions that it writes."""

from __future__ import annotations

import shutil

import pytest
from langchain_core.documents import Document

from langchain_rerank import ModelLoadError, OnnxCrossEncoder, index_documents, ui
from langchain_rerank.evaluation import load_beir
from langchain_rerank.offline import OfflineEmbeddings
from tests.support import free_port

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


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return tmp_path_factory.mktemp("labels") / "labelled"


@pytest.fixture(scope="module")
def url(checkpoint, labels):
    def open_store(kind, place):
        if kind == ui.PASTED:
            return ui.pasted_store(place)
        if kind == ui.FOLDER:
            msg = f"expected a folder, got {place}"
            raise ValueError(msg)
        documents = [
            Document(text, id=key, metadata={"source": key}) for key, text in TEXTS.items()
        ]
        return index_documents(documents, OfflineEmbeddings(), collection_name="page")

    def build_model(name):
        if name != "offline":
            msg = f"no model {name}"
            raise ModelLoadError(msg)
        return OnnxCrossEncoder(model=checkpoint)

    blocks = ui.create_page(ui.Page(open_store, build_model, labels), model="offline")
    port = free_port()
    ui.serve(blocks, port, wait=False)
    yield f"http://127.0.0.1:{port}"
    blocks.close()


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
    asked = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(url)
    page.get_by_label("Question", exact=True).wait_for(timeout=60_000)
    yield page
    assert [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= request.param
    page.close()


def test_by_keyboard_alone_from_the_question_to_a_labelled_one(page, labels):
    page.keyboard.type(QUESTION)  # the question has the focus
    page.keyboard.press("Enter")
    best = page.locator("#rr0-1")
    best.wait_for(timeout=60_000)
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
    page.get_by_text("1 labelled questions").wait_for(timeout=60_000)
    data = load_beir(labels)
    assert list(data.queries.values()) == [QUESTION]
    assert list(data.qrels.values()) == [{"berlin": 1, "paris": 0, "museums": 0}]
    assert {one.id: one.page_content for one in data.documents} == TEXTS


def ask(page, question=QUESTION):
    page.get_by_label("Question", exact=True).fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


@pytest.mark.parametrize(
    ("question", "section", "field", "value", "message"),
    [
        (" ", "Settings", "k: passages kept", None, "The question is empty"),
        (QUESTION, "Passages", "Folder of texts", "/nowhere", "expected a folder, got /nowhere"),
        (QUESTION, "Settings", "Model A", "no/such", "no model no/such"),
        (QUESTION, "Passages", "Pasted passages", " ", "There are no passages"),
    ],
)
def test_what_is_wrong_is_one_message_on_the_page(  # noqa: PLR0913, PLR0917  # a row's columns
    page, question, section, field, value, message
):
    page.get_by_role("button", name=section).click()
    if field == "Pasted passages":
        page.get_by_role("radio", name=field).check()
    elif field == "Folder of texts":
        page.get_by_role("radio", name="Folder").check()
    if value and value.strip():
        page.get_by_label(field).fill(value)
    ask(page, question)
    alert = page.get_by_role("alert").filter(has_text=message)
    alert.wait_for(timeout=60_000)
    assert alert.count() == 1


def test_pasted_passages_and_two_models_side_by_side(page):
    page.get_by_role("button", name="Passages").click()
    page.get_by_role("radio", name="Pasted passages").check()
    page.get_by_label("Passages, with empty lines").fill("\n\n".join(TEXTS.values()))
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Model B").fill("offline")
    ask(page)
    for view in ("rr0", "rr1"):
        first = page.locator(f"#{view}-1")
        first.wait_for(timeout=60_000)
        assert "3,520,031" in first.inner_text()


def test_a_question_judged_anew_replaces_its_judgments(tmp_path):
    for question, grades, count in (
        ("a?", {"1": 1, "2": 0}, 1),
        ("b?", {"2": 1}, 2),
        ("a?", {"2": 1}, 2),
    ):
        assert ui.save_labels(tmp_path / "x", question, grades, {"1": "one", "2": "two"}) == count
    data = load_beir(tmp_path / "x")
    assert sorted(data.queries.values()) == ["a?", "b?"]
    assert list(data.qrels.values()) == [{"2": 1}, {"2": 1}]
