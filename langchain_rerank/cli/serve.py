"""`langchain-rerank serve`: the rerank service on one machine."""

from __future__ import annotations

import ipaddress
import logging
import os
from pathlib import Path  # noqa: TC003  # typer reads it
from typing import Annotated, Any

import typer

from langchain_rerank.cli.console import one_line_errors
from langchain_rerank.cli.models import BACKEND_HELP, MODEL_HELP, Backend, build_cross_encoder

API_KEYS_VARIABLE = "LANGCHAIN_RERANK_SERVER_API_KEYS"

logger = logging.getLogger(__name__)


def serve(  # noqa: PLR0913  # one parameter an option
    *,
    model: Annotated[
        str | None,
        typer.Option(help=MODEL_HELP + "BAAI/bge-reranker-v2-m3 by default."),
    ] = None,
    backend: Annotated[Backend, typer.Option(help=BACKEND_HELP)] = "torch",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    served_name: Annotated[
        str | None, typer.Option(help="What replies call the model; requests may name any.")
    ] = None,
    max_documents: Annotated[int, typer.Option(min=1, help="Documents of a request.")] = 1000,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests that wait.")] = 256,
    joint_scoring: Annotated[
        bool, typer.Option(help="Score requests that wait together, or one after another.")
    ] = True,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to finish requests after SIGTERM.")
    ] = 30,
    ray: Annotated[
        bool, typer.Option("--ray", help="Run replicas on Ray Serve, here or where RAY_ADDRESS is.")
    ] = False,
    replicas: Annotated[
        int, typer.Option(min=1, help="With --ray: processes, each with a model of its own.")
    ] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="With --ray: up to how many while requests wait.")
    ] = None,
    gpus_per_replica: Annotated[
        float | None,
        typer.Option(min=0, help="With --ray: GPUs of a replica, as in 0.5; else an equal share."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"File with an API key a line; else the variable {API_KEYS_VARIABLE}."),
    ] = None,
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
        api_keys = read_api_keys(api_key_file)
        if not api_keys and not _is_loopback(host):
            logger.warning(
                "anyone who reaches %s may ask: no API key is set (%s)", host, API_KEYS_VARIABLE
            )
        cross_encoder = build_cross_encoder(model, backend)
        settings: dict[str, Any] = {
            "served_name": served_name,
            "limits": Limits(documents=max_documents, waiting=max_waiting),
            "api_keys": api_keys,
            "joint_scoring": joint_scoring,
        }
        if ray and port == 0:
            msg = "--ray needs a port of its own, got --port 0"
            raise ValueError(msg)
        if ray:
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
        elif replicas > 1 or max_replicas or gpus_per_replica:
            msg = "--replicas, --max-replicas and --gpus-per-replica need --ray"
            raise ValueError(msg)
        else:
            run(create_app(cross_encoder, **settings), host=host, port=port, grace_seconds=grace)


def read_api_keys(file: Path | None) -> list[str]:
    """Read API keys from a file, a line each, or from the environment, between commas.

    Raises:
        ValueError: The file holds none; without a key the service would be open.
    """
    if file is None:
        found = os.environ.get(API_KEYS_VARIABLE, "").split(",")
    else:
        found = file.read_text(encoding="utf-8").splitlines()
    keys = [key.strip() for key in found if key.strip()]
    if file is not None and not keys:
        msg = f"expected an API key a line in {file}, got none"
        raise ValueError(msg)
    return keys


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
