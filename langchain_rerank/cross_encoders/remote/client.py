"""Cross encoders that run elsewhere: any /rerank server, hosted or one's own."""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import TYPE_CHECKING, Any, Self

import httpx
from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from langchain_rerank.cross_encoders.base import FrozenSettings
from langchain_rerank.cross_encoders.remote import addresses, background, credentials, dialects
from langchain_rerank.cross_encoders.remote.attempt import Sender, open_sender
from langchain_rerank.cross_encoders.remote.endpoints import Endpoints
from langchain_rerank.cross_encoders.remote.exchange import Exchange
from langchain_rerank.cross_encoders.tokenization import check_pairs
from langchain_rerank.errors import RemoteError
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

API_KEY = "LANGCHAIN_RERANK_API_KEY"
# What httpx reads to make a client.
_VARIABLES = [
    variant
    for name in (
        "ALL_PROXY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    )
    for variant in (name, name.lower())
]
COHERE_URL = "https://api.cohere.com/v2/rerank"
JINA_URL = "https://api.jina.ai/v1/rerank"


class RemoteCrossEncoder(FrozenSettings, BaseCrossEncoder):
    """A rerank server, as a LangChain cross encoder.

    The "cohere" dialect is spoken by Cohere, Jina, vLLM, infinity and `langchain-rerank serve`,
    "tei" by Hugging Face's text-embeddings-inference:

    | server | url |
    |---|---|
    | `langchain-rerank serve` | `http://host:8000/v2/rerank` |
    | vLLM (`vllm serve MODEL`) | `http://host:8000/rerank` |
    | infinity (`infinity_emb v2 --model-id MODEL`) | `http://host:7997/rerank` |
    | text-embeddings-inference, `dialect="tei"` | `http://host:8080/rerank` |
    | Cohere, Jina | `RemoteCrossEncoder.cohere()`, `RemoteCrossEncoder.jina()` |

    Scores are the server's: 0–1 from most (vLLM's and TEI's own settings can make them logits).
    One object serves any number of threads and event loops; they share its connections. `score`
    and `ascore` do the same. Requests that meet a connection error, a timeout or a status 429,
    502, 503 or 504 are sent again, to another server if there are several. A copy made by
    `pickle`, `copy` or `model_copy` has the settings, the key among them, and connections of its
    own.

    Example:
        >>> from langchain_rerank import RemoteCrossEncoder
        >>> cross_encoder = RemoteCrossEncoder(url="http://localhost:8000", api_key="secret")
        >>> cross_encoder.api_key
        SecretStr('**********')

        With the server running, `cross_encoder.score([(query, passage), …])` gives its scores.
    """

    # Errors of validation would show keys.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str | tuple[str, ...]
    """The endpoint's address, or several servers' of one model, among which requests are spread.
    One without a path gets `/rerank`. A user and password in it are sent by basic
    authentication, in place of `api_key`."""
    dialect: dialects.Dialect = "cohere"
    """The shape of bodies and replies."""
    model: str | None = None
    """The body's `model`; None leaves it out."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """More headers of each request."""
    api_key: SecretStr | None = Field(default=None, validate_default=True)
    """Sent as `Authorization: Bearer …`. None takes that of LANGCHAIN_RERANK_API_KEY, unless `url`
    or `headers` hold credentials; "" sends none."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More fields of each body, such as vLLM's `truncate_prompt_tokens`, Cohere's
    `max_tokens_per_doc` or TEI's `raw_scores`."""
    timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds for one whole `score`, retries and waiting included; to reach another server after
    one that hangs, well above `read_timeout`."""
    connect_timeout: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Seconds to connect to a server."""
    read_timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Seconds that a server may take from a request to the end of its answer."""
    max_retries: int = Field(default=4, ge=0)
    """How many times one request is sent again."""
    max_documents: int | None = Field(default=None, ge=1)
    """Most documents of one request; None takes 1000 for "cohere" (Cohere's advice) and 32 for
    "tei" (that server's default)."""
    max_concurrency: int = Field(default=8, ge=1)
    """Most requests of one `score` in flight at once; all calls of one object share 32 places."""
    max_reply_bytes: int = Field(default=16 * 2**20, ge=1)
    """Most bytes of a reply."""

    _exchange: Exchange | None = PrivateAttr(default=None)
    _finalizer: weakref.finalize[..., Any] | None = PrivateAttr(default=None)

    @classmethod
    def cohere(cls, model: str = "rerank-v3.5", **settings: Any) -> Self:
        """Cohere's hosted Rerank (its API v2).

        Args:
            model: Its name there.
            **settings: Other fields; `api_key` is that of COHERE_API_KEY or CO_API_KEY if left out.

        Raises:
            ValueError: There is no key.
        """
        key = credentials.hosted_key(settings.pop("api_key", None), "COHERE_API_KEY", "CO_API_KEY")
        return cls(**{"url": COHERE_URL, **settings, "model": model, "api_key": key})

    @classmethod
    def jina(cls, model: str = "jina-reranker-v2-base-multilingual", **settings: Any) -> Self:
        """Jina's hosted Reranker.

        Args:
            model: Its name there.
            **settings: Other fields; `api_key` is that of JINA_API_KEY if left out.

        Raises:
            ValueError: There is no key.
        """
        key = credentials.hosted_key(settings.pop("api_key", None), "JINA_API_KEY")
        # Jina sends the documents back by default.
        extra = {"return_documents": False, **settings.pop("extra_body", {})}
        given = {"url": JINA_URL, **settings, "model": model, "api_key": key, "extra_body": extra}
        return cls(**given)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not url:
            msg = "url must name at least one server, got none"
            raise ValueError(msg)
        for one in _all(url):
            addresses.parse(one)
        return url

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        credentials.check_headers(headers)
        return headers

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        urls, headers = info.data.get("url", ()), info.data.get("headers", {})
        if key is None and not credentials.in_urls_or_headers(_all(urls), headers):
            key = credentials.from_environment(API_KEY)
        if key is not None:
            credentials.check_key(key)
        return key

    @field_validator("extra_body")
    @classmethod
    def _check_extra_body(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        dialects.check_extra(extra_body)
        return extra_body

    @field_serializer("url", when_used="json")
    def _shown_url(self, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Leave credentials out, as JSON does with the key."""
        if isinstance(url, str):
            return addresses.parse(url).shown
        return tuple(addresses.parse(one).shown for one in url)

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

    def close(self) -> None:
        """Free the connections, once running calls are done; the next call opens new ones."""
        if self._exchange is not None:
            asyncio.run_coroutine_threadsafe(self._retire(), background.background_loop()).result()

    def _submit(self, text_pairs: list[tuple[str, str]]) -> Future[list[float]]:
        """Start scoring on the background loop, in the caller's context (contextvars)."""
        check_pairs(text_pairs)
        pairs = [(well_formed(query), well_formed(passage)) for query, passage in text_pairs]
        loop = background.background_loop()
        return asyncio.run_coroutine_threadsafe(self._score(pairs), loop)

    async def _score(self, pairs: list[tuple[str, str]]) -> list[float]:
        exchange = self._exchange
        # A forked child starts with its parent's.
        if exchange is None or exchange.loop is not asyncio.get_running_loop():
            exchange = self._exchange = self._open()
        async with exchange:
            return await exchange.score(pairs)

    def _sender(self) -> Sender:
        try:
            return open_sender(
                credentials.request_headers(self.headers, self.api_key),
                credentials.secrets(_all(self.url), self.headers, self.api_key),
                connect_timeout=self.connect_timeout,
                read_timeout=self.read_timeout,
                max_reply_bytes=self.max_reply_bytes,
            )
        # httpx reads these variables while a client is made, and raises whatever it meets.
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            given = [name for name in _VARIABLES if os.environ.get(name)]
            msg = (
                f"no connection can be made with the environment variables {', '.join(given)}: "
                f"{type(error).__name__}. Mend or unset them"
            )
            url = addresses.parse(_all(self.url)[0]).shown
            raise RemoteError(msg, url=url, attempts=0) from error

    def _open(self) -> Exchange:
        exchange = Exchange(
            sender=self._sender(),
            endpoints=Endpoints([addresses.parse(url) for url in _all(self.url)]),
            dialect=self.dialect,
            model=self.model,
            extra_body=self.extra_body,
            timeout=self.timeout,
            max_retries=self.max_retries,
            max_documents=self.max_documents or dialects.MAX_DOCUMENTS[self.dialect],
            max_concurrency=self.max_concurrency,
        )
        background.close_at_exit(exchange)
        # An object that nobody closed gives its connections back when it is collected.
        finalizer: weakref.finalize[..., Any] = weakref.finalize(
            self, background.retire_soon, exchange
        )
        finalizer.atexit = False
        self._finalizer = finalizer
        return exchange

    async def _retire(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.loop is asyncio.get_running_loop():
            if self._finalizer is not None:
                self._finalizer.detach()
            await exchange.retire()


def _all(url: str | tuple[str, ...]) -> tuple[str, ...]:
    return (url,) if isinstance(url, str) else tuple(dict.fromkeys(url))
