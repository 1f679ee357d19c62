"""Cross encoders that run elsewhere: any /rerank server, hosted or one's own."""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from typing import TYPE_CHECKING, Annotated, Any, Self

import httpx
from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from langchain_rerank.cross_encoders.base import FrozenSettings
from langchain_rerank.cross_encoders.dialects import DIALECTS, RESERVED, DialectName
from langchain_rerank.cross_encoders.endpoints import parse_url, shown
from langchain_rerank.cross_encoders.http_client import RerankClient
from langchain_rerank.cross_encoders.processes import background_loop
from langchain_rerank.cross_encoders.tokenization import check_pairs
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

API_KEY = "LANGCHAIN_RERANK_API_KEY"
# They speak a dialect whose other servers take an instruction, and would drop one.
_WITHOUT_INSTRUCTION = ("api.cohere.com", "api.jina.ai")
# Of each hosted service its address, its dialect and the variables that may hold its key.
_HOSTED: dict[str, tuple[str, DialectName, str]] = {
    "cohere": ("https://api.cohere.com/v2/rerank", "cohere", "COHERE_API_KEY or CO_API_KEY"),
    "jina": ("https://api.jina.ai/v1/rerank", "cohere", "JINA_API_KEY"),
    "voyage": ("https://api.voyageai.com/v1/rerank", "voyage", "VOYAGE_API_KEY"),
    "nvidia": ("https://ai.api.nvidia.com/v1/retrieval/{}/reranking", "nvidia", "NVIDIA_API_KEY"),
    "pinecone": ("https://api.pinecone.io/rerank", "pinecone", "PINECONE_API_KEY"),
}


def _printable(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"([!-~]([\t -~]*[!-~])?)?", secret.get_secret_value()):
        msg = "must be printable ASCII without spaces at its ends, as it goes into a header"
        raise ValueError(msg)
    return secret


# RFC 9110, section 5.6.2: what the name of a header is made of.
_HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
_HeaderValue = Annotated[SecretStr, AfterValidator(_printable)]


class _Connections:
    """What a cross encoder and its copies by `with_instruction` share, opened when used."""

    client: RerankClient | None = None
    _retire: weakref.finalize[..., Any] | None = None

    def open(self, client: RerankClient) -> RerankClient:
        self.client, self._retire = client, weakref.finalize(self, client.retire)
        return client

    def close(self) -> None:
        self.client = None
        if self._retire is not None:
            self._retire()


class RemoteCrossEncoder(FrozenSettings, BaseCrossEncoder):
    """A rerank server, as a LangChain cross encoder.

    | server | settings |
    |---|---|
    | `langchain-rerank serve` | `url="http://host:8000/v2/rerank"` |
    | vLLM (`vllm serve MODEL`), infinity | `url="http://host:8000/rerank"`, port 7997 |
    | text-embeddings-inference | `url="http://host:8080/rerank", dialect="tei"` |
    | llama.cpp (`llama-server --rerank`) | `url="http://host:8080/rerank", dialect="llamacpp"` |
    | NVIDIA NIM | `url="http://host:8000/v1/ranking", dialect="nvidia"` |
    | Cohere, Jina, Voyage, NVIDIA, Pinecone | `RemoteCrossEncoder.cohere()`, `.jina()`, … |

    Scores are the server's: 0–1 from most (vLLM's and TEI's own settings can make them logits);
    of the logits of llama.cpp and NVIDIA we make 0–1. (Of Qwen3-Reranker llama.cpp gives 0–1 by
    itself: take `dialect="cohere"` there.) One object serves any number of threads and event
    loops; they share its connections. Requests that meet a connection error, a timeout or a status
    429, 502, 503 or 504 are sent again, to another server if there are several. A copy made by
    `pickle`, `copy` or `model_copy` has the settings, the key among them, and connections of its
    own. Proxies and certificates are those of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY,
    NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR), read when connections are opened.

    Example:
        >>> from langchain_rerank import RemoteCrossEncoder
        >>> cross_encoder = RemoteCrossEncoder(url="http://localhost:8000/v2/rerank", api_key="x")
        >>> cross_encoder.api_key
        SecretStr('**********')
    """

    # Errors of validation would show keys.
    model_config = ConfigDict(hide_input_in_errors=True, allow_inf_nan=False)

    url: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """The endpoint's address, or several servers' of one model, among which requests are spread.
    One without a path gets the dialect's. A user and password in it are sent by basic
    authentication, in place of `api_key`."""
    dialect: DialectName = "cohere"
    """The shape of bodies and replies; "cohere" is also Jina's, vLLM's, infinity's and ours."""
    model: str | None = None
    """The body's `model`; None leaves it out."""
    headers: dict[_HeaderName, _HeaderValue] = Field(default_factory=dict)
    """More headers of each request."""
    api_key: _HeaderValue | None = Field(default=None, validate_default=True)
    """Sent as `Authorization: Bearer …`, to Pinecone as `Api-Key`. None takes that of
    LANGCHAIN_RERANK_API_KEY, unless `url` or `headers` hold credentials; "" sends none."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """More fields of each body, as vLLM's `truncate_prompt_tokens` or TEI's `raw_scores`."""
    instruction: str | None = None
    """What to look for, for servers that take one: vLLM and Contextual AI, both "cohere"."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds for one whole `score`, retries and waiting included; to reach another server after
    one that hangs, well above `read_timeout`."""
    connect_timeout: float = Field(default=5.0, gt=0)
    """Seconds to connect to a server."""
    read_timeout: float = Field(default=30.0, gt=0)
    """Seconds that a server may take from a request to the end of its answer."""
    max_retries: int = Field(default=4, ge=0)
    """How many times one request is sent again."""
    max_documents: int | None = Field(default=None, ge=1)
    """Most documents of one request; None takes what the dialect's servers accept: 32 for "tei"
    and "nvidia", 100 for "pinecone", else 1000."""
    max_concurrency: int = Field(default=32, ge=1)
    """Most requests in flight at once, of all calls."""
    max_reply_bytes: int = Field(default=16 * 2**20, ge=1)
    """Most bytes of a reply."""

    _connections: _Connections = PrivateAttr(default_factory=_Connections)

    @classmethod
    def cohere(cls, model: str = "rerank-v4.0-fast", **settings: Any) -> Self:
        """Cohere's hosted Rerank (its API v2), with other fields as settings.

        Raises:
            ValueError: There is no key: neither `api_key` nor COHERE_API_KEY nor CO_API_KEY.
        """
        return cls._hosted("cohere", model, settings)

    @classmethod
    def jina(cls, model: str = "jina-reranker-v3", **settings: Any) -> Self:
        """Jina's hosted Reranker; see `cohere`. A key left out is that of JINA_API_KEY."""
        # Jina sends the documents back by default.
        settings["extra_body"] = {"return_documents": False, **settings.get("extra_body", {})}
        return cls._hosted("jina", model, settings)

    @classmethod
    def voyage(cls, model: str = "rerank-2.5", **settings: Any) -> Self:
        """Voyage's hosted Reranker; see `cohere`. A key left out is that of VOYAGE_API_KEY."""
        return cls._hosted("voyage", model, settings)

    @classmethod
    def nvidia(cls, model: str = "nvidia/llama-nemotron-rerank-1b-v2", **settings: Any) -> Self:
        """NVIDIA's hosted rerankers; see `cohere`. A key left out is that of NVIDIA_API_KEY."""
        return cls._hosted("nvidia", model, settings)

    @classmethod
    def pinecone(cls, model: str = "bge-reranker-v2-m3", **settings: Any) -> Self:
        """Pinecone's hosted rerankers; see `cohere`. A key left out is that of PINECONE_API_KEY."""
        return cls._hosted("pinecone", model, settings)

    @classmethod
    def _hosted(cls, name: str, model: str, settings: dict[str, Any]) -> Self:
        url, dialect, variables = _HOSTED[name]
        key = settings.pop("api_key", None) or _from_environment(*variables.split(" or "))
        if not key:
            msg = f"api_key is needed: give it, or set the variable {variables}"
            raise ValueError(msg)
        url = url.format(model.replace(".", "_"))
        return cls(**{"url": url, "dialect": dialect, **settings, "model": model, "api_key": key})

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for one in _several(url):
            parse_url(one)
        return url

    @field_validator("api_key")
    @classmethod
    def _key_of_environment(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        urls = _several(info.data.get("url", ()))
        named = {"authorization", "api-key"} & set(map(str.lower, info.data.get("headers", {})))
        if key is None and not named and not any(httpx.URL(url).userinfo for url in urls):
            key = _from_environment(API_KEY)
        return key and _printable(key)

    @field_validator("extra_body")
    @classmethod
    def _check_extra(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := RESERVED & extra.keys():
            msg = f"can't set {sorted(taken)}, which the documents and fields decide"
            raise ValueError(msg)
        return extra

    @model_validator(mode="after")
    def _check_instruction(self) -> Self:
        hosts = {parse_url(url).host for url in self.urls}
        takes_one = DIALECTS[self.dialect].instruction and hosts.isdisjoint(_WITHOUT_INSTRUCTION)
        if self.instruction is not None and not takes_one:
            at = f"dialect={self.dialect!r} at {', '.join(sorted(hosts))}"
            msg = f"the servers of {at} take no instruction: leave it out"
            raise ValueError(msg)
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """One url or several as several, each once."""
        return _several(self.url)

    @field_serializer("url", when_used="json")
    def _shown_url(self, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Leave credentials out, as JSON does with the key."""
        found = tuple(shown(parse_url(one)) for one in _several(url))
        return found[0] if isinstance(url, str) else found

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, self._shown_url(value) if name == "url" else value

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score how well each passage answers its query; higher is better.

        Args:
            text_pairs: (query, passage) each. Pairs of one query go to a server together, at most
                `max_documents` a request.

        Returns:
            One float a pair, in the same order.

        Raises:
            TypeError: A text is not a str; the message names its position.
            RemoteError: No server gave the scores of one of the requests within `timeout` and
                `max_retries`; the others were cancelled.
        """
        future = self._submit(text_pairs)
        try:
            return future.result()
        finally:
            # Ctrl-C ends the wait here, and must end the requests too.
            future.cancel()

    async def ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score without blocking the event loop; see `score`. Cancelled, it ends its requests."""
        return await asyncio.wrap_future(self._submit(text_pairs))

    def with_instruction(self, instruction: str) -> Self:
        """Copy this with another `instruction`; the copy shares the connections.

        Raises:
            ValueError: The server takes no instruction.
        """
        copy = type(self)(**{**self.model_dump(), "instruction": instruction})
        copy._connections = self._connections  # noqa: SLF001  # of the same class
        return copy

    def close(self) -> None:
        """Free the connections, once running calls are done; the next call opens new ones."""
        self._connections.close()

    def _submit(self, text_pairs: list[tuple[str, str]]) -> Future[list[float]]:
        """Start scoring on the background loop, in the caller's context (contextvars)."""
        check_pairs(text_pairs)
        pairs = [(well_formed(query), well_formed(passage)) for query, passage in text_pairs]
        return asyncio.run_coroutine_threadsafe(self._score(pairs), background_loop())

    async def _score(self, pairs: list[tuple[str, str]]) -> list[float]:
        client = self._connections.client
        # A forked child starts with its parent's.
        if client is None or client.loop is not asyncio.get_running_loop():
            # Of a copy: it must not keep this object, which closes it.
            client = self._connections.open(RerankClient(self.model_copy()))
        return await client.score(pairs, self.instruction)


def _from_environment(*variables: str) -> SecretStr | None:
    return next((SecretStr(key) for name in variables if (key := os.environ.get(name))), None)


def _several(url: str | tuple[str, ...]) -> tuple[str, ...]:
    return (url,) if isinstance(url, str) else tuple(dict.fromkeys(url))
