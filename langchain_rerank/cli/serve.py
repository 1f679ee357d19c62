"""`langchain-rerank serve`: the rerank service on one machine."""

from __future__ import annotations

import logging
from pathlib import Path  # noqa: TC003  # typer reads it
from typing import Annotated

from typer import Option

from langchain_rerank.cli.common import Backend, Model, build_cross_encoder, one_line_errors
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

logger = logging.getLogger(__name__)


@one_line_errors()
def serve(  # noqa: PLR0913  # one parameter an option
    *,
    model: Model = DEFAULT_MODEL,
    backend: Backend = "torch",
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    served_name: Annotated[str | None, Option(help="What replies call the model.")] = None,
    max_documents: Annotated[int, Option(min=1, help="Documents of a request.")] = 1000,
    max_waiting: Annotated[int, Option(min=1, help="Requests that wait.")] = 256,
    grace: Annotated[float, Option(min=0, help="Seconds to finish requests after SIGTERM.")] = 30,
    api_key_file: Annotated[Path | None, Option(help="File with an API key a line.")] = None,
) -> None:
    """Serve a reranker to the clients of Cohere, Jina and text-embeddings-inference.

    API keys, separated by commas, come from the variable LANGCHAIN_RERANK_SERVER_API_KEYS; without
    any, whoever reaches the port may ask. Several replicas, or a cluster: see the README on Ray.
    """
    from langchain_rerank.server.app import create_app, read_api_keys
    from langchain_rerank.server.run import run
    from langchain_rerank.server.schemas import Limits

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    api_keys = read_api_keys(api_key_file)
    if not api_keys and host not in _LOOPBACK:
        logger.warning("anyone who reaches %s may ask, without an API key", host)
    app = create_app(
        build_cross_encoder(model, backend),
        served_name=served_name,
        limits=Limits(documents=max_documents, waiting=max_waiting),
        api_keys=api_keys,
    )
    run(app, host=host, port=port, grace_seconds=grace)
