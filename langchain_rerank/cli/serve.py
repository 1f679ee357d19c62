"""`langchain-rerank serve`: the rerank service, on one machine or on Ray."""

from __future__ import annotations

import logging
import os
from pathlib import Path  # noqa: TC003  # typer reads it
from typing import Annotated, Any

from typer import Option

from langchain_rerank.cli.common import Backend, Model, build_cross_encoder, one_line_errors
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL

API_KEYS_VARIABLE = "LANGCHAIN_RERANK_SERVER_API_KEYS"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

logger = logging.getLogger(__name__)


def serve(  # noqa: PLR0913  # one parameter an option
    *,
    model: Model = DEFAULT_MODEL,
    backend: Backend = "torch",
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    served_name: Annotated[str | None, Option(help="What replies call the model.")] = None,
    max_documents: Annotated[int, Option(min=1, help="Documents of a request.")] = 1000,
    max_waiting: Annotated[int, Option(min=1, help="Requests that wait.")] = 256,
    joint_scoring: Annotated[bool, Option(help="Score what waits together, or in turn.")] = True,
    grace: Annotated[float, Option(min=0, help="Seconds to finish requests after SIGTERM.")] = 30,
    ray: Annotated[bool, Option("--ray", help="On Ray, here or where RAY_ADDRESS is.")] = False,
    replicas: Annotated[int, Option(min=1, help="With --ray: processes with a model each.")] = 1,
    max_replicas: Annotated[
        int | None, Option(min=1, help="With --ray: up to how many while requests wait.")
    ] = None,
    gpus_per_replica: Annotated[
        float | None, Option(min=0, help="With --ray: GPUs of each; else an equal share.")
    ] = None,
    api_key_file: Annotated[Path | None, Option(help="File with an API key a line.")] = None,
) -> None:
    """Serve a reranker to the clients of Cohere, Jina and text-embeddings-inference.

    API keys, separated by commas, come from the variable LANGCHAIN_RERANK_SERVER_API_KEYS; without
    any, whoever reaches the port may ask.
    """
    with one_line_errors():
        from langchain_rerank.server.app import create_app
        from langchain_rerank.server.limits import Limits
        from langchain_rerank.server.run import run

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        settings: dict[str, Any] = {
            "served_name": served_name,
            "limits": Limits(documents=max_documents, waiting=max_waiting),
            "api_keys": read_api_keys(api_key_file),
            "joint_scoring": joint_scoring,
        }
        if not settings["api_keys"] and host not in _LOOPBACK:
            logger.warning("anyone who reaches %s may ask, without an API key", host)
        cross_encoder = build_cross_encoder(model, backend)
        if not ray:
            if replicas > 1 or max_replicas or gpus_per_replica:
                msg = "--replicas, --max-replicas and --gpus-per-replica need --ray"
                raise ValueError(msg)
            run(create_app(cross_encoder, **settings), host=host, port=port, grace_seconds=grace)
            return
        if port == 0:
            msg = "--ray needs a port of its own, got --port 0"
            raise ValueError(msg)
        from langchain_rerank.server.ray_serve import serve_on_ray

        serve_on_ray(
            cross_encoder,
            host=host,
            port=port,
            replicas=replicas,
            max_replicas=max_replicas,
            gpus_per_replica=gpus_per_replica,
            grace_seconds=grace,
            **settings,
        )


def read_api_keys(file: Path | None) -> list[str]:
    """Read API keys from a file, a line each, or from the environment, between commas.

    Raises:
        ValueError: The file holds none; without a key the service would be open.
    """
    text = os.environ.get(API_KEYS_VARIABLE, "").replace(",", "\n")
    if file is not None:
        text = file.read_text(encoding="utf-8")
    keys = [key.strip() for key in text.splitlines() if key.strip()]
    if file is not None and not keys:
        msg = f"expected an API key a line in {file}, got none"
        raise ValueError(msg)
    return keys
