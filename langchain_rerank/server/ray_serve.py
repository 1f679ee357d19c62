"""The rerank service on Ray Serve: the same app in each of several replicas."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from langchain_rerank.cores import available_cores, keep_to_cores
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL
from langchain_rerank.cross_encoders.onnx import OnnxCrossEncoder
from langchain_rerank.cross_encoders.torch import TorchCrossEncoder
from langchain_rerank.errors import ModelLoadError, require
from langchain_rerank.ray_session import connected
from langchain_rerank.server import ray_proxy
from langchain_rerank.server.app import create_app
from langchain_rerank.server.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI
    from langchain_core.cross_encoders import BaseCrossEncoder
    from ray.serve import Application, Deployment

logger = logging.getLogger(__name__)

APPLICATION = "rerank"
DEPLOYMENT = "RerankReplica"


class ServeArguments(BaseModel):
    """The `args` of a Serve config file; `serve_config.yaml` says what each is."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = DEFAULT_MODEL
    backend: Literal["torch", "onnx"] = "torch"
    served_name: str | None = None
    cores: int = Field(default=1, ge=1)
    max_documents: int = Limits().documents
    max_waiting: int = Limits().waiting


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
        self._app.state.model.load()

    def __serve_build_asgi_app__(self) -> FastAPI:  # Ray Serve asks for it by this name
        return self._app


def build_app(arguments: dict[str, Any]) -> Application:
    """Build the application that `serve_config.yaml` names; its file sets the deployment.

    API keys come from the variable `LANGCHAIN_RERANK_SERVER_API_KEYS`, between commas.

    Args:
        arguments: The file's `args`: what `ServeArguments` takes.

    Raises:
        ValueError: One is unknown or wrong.
    """
    given = ServeArguments.model_validate(arguments)
    kind = OnnxCrossEncoder if given.backend == "onnx" else TorchCrossEncoder
    keys = os.environ.get("LANGCHAIN_RERANK_SERVER_API_KEYS", "").split(",")
    settings = {
        "served_name": given.served_name,
        "limits": Limits(documents=given.max_documents, waiting=given.max_waiting),
        "api_keys": [key.strip() for key in keys if key.strip()],
    }
    return deployment().bind(kind(model=given.model), given.cores, settings)


def deployment(**options: Any) -> Deployment:
    """Set the deployment up; `options`, as Ray's `serve.deployment` takes them, come on top."""
    require("ray", install="langchain-rerank[ray]", purpose="Serving on Ray")
    from ray import serve

    return serve.deployment(
        **{
            "name": DEPLOYMENT,
            # The replica's own queue scores what waits together, so much may wait there; what is
            # over both numbers is answered by 503.
            "max_ongoing_requests": 64,
            "max_queued_requests": 256,
            "backpressure_config": {"retry_after_s": 1},
            "health_check_period_s": 5,
            "graceful_shutdown_wait_loop_s": 1,
            **options,
        }
    )(serve.ingress()(RerankReplica))


def serve_on_ray(  # noqa: PLR0913  # one parameter a setting
    cross_encoder: BaseCrossEncoder,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    max_replicas: int | None = None,
    gpus_per_replica: float | None = None,
    grace_seconds: float = 30,
    **settings: Any,
) -> None:
    """Serve on Ray until SIGTERM or Ctrl-C, then finish what was taken and refuse the rest.

    Ray is started for it on this machine, unless it is already connected or `RAY_ADDRESS` names a
    cluster. For a cluster that goes on after this process, use `serve deploy` and
    `serve_config.yaml`.

    Args:
        cross_encoder: Can be pickled; each replica has a copy.
        host: Address to listen on.
        port: Must be free.
        replicas: How many processes score; with `max_replicas` the least.
        max_replicas: Up to how many while requests wait; None keeps `replicas`.
        gpus_per_replica: May be a fraction; None shares this machine's GPUs, and takes none on a
            cluster.
        grace_seconds: How long requests that were taken may still run after a signal.
        **settings: Keywords of `create_app`.

    Raises:
        MissingDependencyError: The extra `ray` is not installed.
        ValueError: A number is out of range, this machine has fewer GPUs than they take, or the
            Ray already serves an application of this name.
        ModelLoadError: The replicas could not be started; the message has their error.
    """
    most = max_replicas or replicas
    if not 1 <= replicas <= most:
        msg = f"expected 1 ≤ replicas ≤ max_replicas, got {replicas} and {max_replicas}"
        raise ValueError(msg)
    require("ray", install="langchain-rerank[ray]", purpose="Serving on Ray")
    scale: dict[str, Any] = {"num_replicas": replicas}
    if max_replicas:
        autoscaling = {"min_replicas": replicas, "max_replicas": most, "target_ongoing_requests": 8}
        scale = {"autoscaling_config": {**autoscaling, "upscale_delay_s": 3}}
    with connected({ray_proxy.VARIABLE: ray_proxy.IMPORT_PATH}) as own:
        gpus = _gpus(most, gpus_per_replica) if own else gpus_per_replica or 0
        # Less of Ray's CPUs than a share: one more fits in while a new version takes over.
        share = {"num_cpus": min(1, available_cores() / (most + 1)), "num_gpus": gpus}
        application = deployment(
            ray_actor_options=share, graceful_shutdown_timeout_s=grace_seconds, **scale
        ).bind(cross_encoder, max(1, available_cores() // most), settings)
        for one in (signal.SIGTERM, signal.SIGINT):  # Ray has set handlers of its own
            signal.signal(one, signal.default_int_handler)
        with suppress(KeyboardInterrupt), deployed(application, host=host, port=port, stop=own):
            logger.info("serving on http://%s:%d by %d replicas", host, port, replicas)
            threading.Event().wait()


@contextmanager
def deployed(
    application: Application, *, host: str, port: int, route_prefix: str = "/", stop: bool = False
) -> Iterator[None]:
    """Run an application on the connected Ray for a while; a proxy that runs keeps its address.

    Args:
        application: Bound to its arguments.
        host: Address to listen on.
        port: Must be free.
        route_prefix: What paths start with.
        stop: Whether Serve itself ends with the block.

    Raises:
        ValueError: There is one of this name.
        ModelLoadError: No replica could be started; the message has Ray's account of it.
    """
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    if APPLICATION in serve.status().applications:
        msg = (
            f"Ray already serves an application {APPLICATION!r}: delete it, or change it by "
            "`serve deploy`"
        )
        raise ValueError(msg)
    try:
        try:
            serve.run(application, name=APPLICATION, route_prefix=route_prefix)
        except RuntimeError as error:
            deployments = serve.status().applications[APPLICATION].deployments.values()
            why = " ".join(one.message for one in deployments) or str(error)
            msg = f"Ray Serve could not start the replicas: {why}"
            raise ModelLoadError(msg) from error
        yield
    finally:
        # Replicas finish what they have; the proxy refuses the rest.
        serve.delete(APPLICATION)
        if stop:
            serve.shutdown()  # type: ignore[no-untyped-call]  # Ray left it so


def _gpus(replicas: int, wanted: float | None) -> float:
    """Settle the GPUs of a replica on this machine's Ray, which would wait for missing ones."""
    import ray

    there: float = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]  # Ray left it so
    if wanted is None:
        return math.floor(min(1, there / replicas) * 10_000) / 10_000  # as finely as Ray counts
    if wanted * replicas > there:
        msg = f"{replicas} replicas need {wanted * replicas:g} GPUs, this machine has {there:g}"
        raise ValueError(msg)
    return wanted
