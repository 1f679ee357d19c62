"""The rerank service on Ray Serve: the same app in each of several replicas."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeFloat, PositiveInt, validate_call

from langchain_rerank.cross_encoders import keep_to_cores
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.errors import require
from langchain_rerank.server import ray_proxy
from langchain_rerank.server.app import create_app, read_api_keys
from langchain_rerank.server.schemas import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI
    from langchain_core.cross_encoders import BaseCrossEncoder
    from ray.serve import Application, Deployment


class RerankReplica:
    """One process with a model of its own; Ray Serve makes the replicas and watches them."""

    def __init__(
        self, cross_encoder: BaseCrossEncoder, cores: int, settings: dict[str, Any]
    ) -> None:
        """Load the model, so that Ray sends no request before.

        Args:
            cross_encoder: What scores; each replica has a copy.
            cores: Cores that this replica computes on.
            settings: Keywords of `create_app`.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._app = create_app(keep_to_cores(cross_encoder, cores), **settings)
        self._app.state.batcher.load()

    def __serve_build_asgi_app__(self) -> FastAPI:  # Ray Serve asks for it by this name
        return self._app


def deployment() -> Deployment:
    """Set up replicas of any cross encoder.

    `deployment().options(num_replicas=2).bind(cross_encoder, cores, settings)` is an application.

    Raises:
        MissingDependencyError: The extra `ray` is not installed.
    """
    require("ray", install="langchain-rerank[ray]", purpose="Serving on Ray")
    from ray import serve

    return serve.deployment(
        # The replica's own queue scores what waits together, so much may wait there; what is over
        # both numbers is answered by 503.
        max_ongoing_requests=64,
        max_queued_requests=256,
        backpressure_config={"retry_after_s": 1},
        health_check_period_s=5,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=30,
    )(serve.ingress()(RerankReplica))


def build_app(arguments: dict[str, Any]) -> Application:
    """Build the application, for Ray's own `serve run` and `serve deploy`.

    `serve run langchain_rerank.server.ray_serve:build_app model=MODEL replicas=2` runs it on this
    machine until Ctrl-C; `serve_config.yaml`, whose deployment comes on top, is for a cluster. API
    keys come from the variable `LANGCHAIN_RERANK_SERVER_API_KEYS`, between commas.

    Args:
        arguments: Of these names; texts are converted. `model` is a name on the hub or a folder
            that every node has, `backend` "torch" or "onnx" (in int8, on the CPU),
            `served_name` what replies call the model. There are so many `replicas`, with so many
            `cores` (CPUs, and threads) and `gpus` (also a fraction) each. `max_documents` of a
            request and `max_waiting` requests in a replica are let in.

    Raises:
        ValueError: One is unknown or wrong.
    """
    application: Application = _application(**arguments)
    return application


@validate_call
def _application(  # noqa: PLR0913  # one parameter an argument
    *,
    model: str = DEFAULT_MODEL,
    backend: Literal["torch", "onnx"] = "torch",
    served_name: str | None = None,
    replicas: PositiveInt = 1,
    cores: PositiveInt = 1,
    gpus: NonNegativeFloat = 0,
    max_documents: PositiveInt = 1000,
    max_waiting: PositiveInt = 256,
) -> Any:
    # Where `serve run` starts a Ray, after this, its proxy finds it.
    os.environ.setdefault(ray_proxy.VARIABLE, ray_proxy.IMPORT_PATH)
    kind = OnnxCrossEncoder if backend == "onnx" else TorchCrossEncoder
    settings = {
        "served_name": served_name,
        "limits": Limits(documents=max_documents, waiting=max_waiting),
        "api_keys": read_api_keys(),
    }
    share = {"num_cpus": cores, "num_gpus": gpus}
    replicated = deployment().options(num_replicas=replicas, ray_actor_options=share)
    return replicated.bind(kind(model=model), cores, settings)
