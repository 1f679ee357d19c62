"""From a float graph and its weights to an int8 graph on the disk, one weight at a time.

ONNX Runtime's own tools fuse and quantize graphs that hold their weights, several times over at
once. Here they see stand-ins of a few rows: one that says which column of which weight it stands
for, then one of the range that each column has. That is all that fusing and quantizing ask.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.cross_encoders import onnx_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt
    import onnx

    Matrix = npt.NDArray[np.float32]
    # Columns of one matrix after another, each by its number.
    Columns = list[tuple[int, slice]]

_MARK = -(2.0**100)
# The input that is a matrix, each column of which can have a scale of its own.
_MATRIX_INPUTS = {"MatMul": 1, "Gather": 0}
# Data that starts at a page can be mapped into memory.
_PAGE_BYTES = 4096


def quantize(
    model: onnx.ModelProto, weights: dict[str, Any], config: Mapping[str, Any], target: Path
) -> None:
    """Fuse a float graph, turn its matrices to int8 and write it, its data in a file beside it.

    Activations are scaled as they come; weights have a scale a column, embeddings one a table.

    Args:
        model: Takes its weights as inputs; used up.
        weights: Each input that is a weight, as numpy array or PyTorch tensor; used up.
        config: The checkpoint's, as it knows the number of attention heads.
        target: The file to write.
    """
    from onnx import numpy_helper

    work = target.with_suffix(".work")
    _drop_casts(model)
    _fold(model.graph, weights)
    matrices = _stand_in(model.graph, weights)
    fused = _fuse(model, config, work)
    columns: dict[str, Columns] = {}
    for tensor in fused.model.graph.initializer:
        marks = numpy_helper.to_array(tensor)
        if marks.ndim == 2 and marks.shape[0] == 3 and (marks[0] == _MARK).all():  # noqa: PLR2004  # a stand-in
            columns[tensor.name] = _columns(marks[1:].astype(np.int64))
            parts = [matrices[number][:, part] for number, part in columns[tensor.name]]
            ends = [np.concatenate([f(part, axis=0) for part in parts]) for f in (np.min, np.max)]
            tensor.CopyFrom(numpy_helper.from_array(np.stack(ends), tensor.name))
    quantized = _quantize_ranges(fused, set(columns), work)
    # They describe stand-ins.
    del quantized.graph.value_info[:]
    _write(quantized, columns, matrices, target)


def _drop_casts(model: onnx.ModelProto) -> None:
    """Drop casts to the type that is there already, which would hide attention from `_fuse`."""
    from onnxruntime.transformers.fusion_utils import FusionUtils
    from onnxruntime.transformers.onnx_model import OnnxModel

    wrapped = OnnxModel(model)
    FusionUtils(wrapped).remove_useless_cast_nodes()
    wrapped.prune_graph()


def _fold(graph: onnx.GraphProto, weights: dict[str, Any]) -> None:
    """Transpose weights now, and make MatMul and Add out of Gemm, as only that is quantized."""
    from onnx import helper

    nodes = []
    for node in graph.node:
        settings = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "Transpose" and getattr(weights.get(node.input[0]), "ndim", 0) == 2:  # noqa: PLR2004  # a matrix
            weights[node.output[0]] = weights[node.input[0]].T
        elif node.op_type == "Gemm" and node.input[1] in weights and _is_plain(settings):
            (given, weight, *bias), (output,) = node.input, node.output
            if settings.get("transB"):
                weights[f"{weight}.T"] = weights[weight].T
                weight = f"{weight}.T"
            product = f"{output}_product" if bias else output
            nodes.append(
                helper.make_node("MatMul", [given, weight], [product], f"{node.name}_MatMul")
            )
            if bias:
                nodes.append(
                    helper.make_node("Add", [product, *bias], [output], f"{node.name}_Add")
                )
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _is_plain(settings: dict[str, Any]) -> bool:
    scales = settings.get("alpha", 1.0), settings.get("beta", 1.0)
    return scales == (1.0, 1.0) and not settings.get("transA")


def _stand_in(graph: onnx.GraphProto, weights: dict[str, Any]) -> list[Matrix]:
    """Give a graph its weights, but a stand-in for each matrix; those are returned."""
    from onnx import numpy_helper

    uses: dict[str, set[bool]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            takes_matrix = _MATRIX_INPUTS.get(node.op_type) == position and not node.attribute
            uses.setdefault(name, set()).add(takes_matrix)
    matrices: list[Matrix] = []
    for name, weight in weights.items():
        if name not in uses:
            continue
        values = weight if isinstance(weight, np.ndarray) else weight.numpy()
        if uses[name] == {True} and values.ndim == 2 and values.dtype == np.float32:  # noqa: PLR2004  # a matrix
            count = values.shape[1]
            marks = [np.full(count, _MARK), np.full(count, len(matrices)), np.arange(count)]
            matrices.append(values)
            values = np.stack(marks).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, name))
    fed = [given for given in graph.input if given.name not in weights]
    del graph.input[:]
    graph.input.extend(fed)
    return matrices


def _columns(marks: npt.NDArray[np.int64]) -> Columns:
    """Read a stand-in's marks, the numbers of its matrices above those of its columns."""
    starts = np.flatnonzero(np.diff(marks[0], prepend=-1))
    stops = [*starts[1:], marks.shape[1]]
    return [
        (int(marks[0, start]), slice(int(marks[1, start]), int(marks[1, stop - 1]) + 1))
        for start, stop in zip(starts, stops, strict=True)
    ]


def _fuse(model: onnx.ModelProto, config: Mapping[str, Any], work: Path) -> Any:
    """Replace attention and GELU by ONNX Runtime's own operators."""
    import onnx
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    # Quantized, it would run in float32 again.
    options.enable_embed_layer_norm = False
    # Slow on a CPU; see OnnxModel.
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    # Stand-ins don't have the shapes that it would find.
    options.enable_shape_inference = False
    # Nor those that its warnings tell of.
    logging.getLogger("fusion_attention").setLevel(logging.ERROR)
    onnx.save(model, work)
    fused = optimizer.optimize_model(
        str(work),
        model_type="bert",
        # The graph alone tells the number of heads only where it was exported without dynamic
        # axes; 0 leaves it to be guessed.
        num_heads=config.get("num_attention_heads", 0),
        hidden_size=config.get("hidden_size", 0),
        opt_level=0,
        optimization_options=options,
    )
    # Otherwise the quantizer advises on the root logger to preprocess the graph.
    add_pre_process_metadata(fused.model)
    return fused


def _quantize_ranges(fused: Any, names: set[str], work: Path) -> onnx.ModelProto:
    """Quantize a graph whose matrices are a row of minima and one of maxima."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    fused.save_model_to_file(str(work))
    quantize_dynamic(
        work,
        work,
        op_types_to_quantize=["Attention", "Gather", "MatMul"],
        # What has no stand-in stays float, which it would find out by shapes.
        nodes_to_exclude=[
            node.name
            for node in fused.model.graph.node
            if node.op_type == "MatMul" and node.name and node.input[1] not in names
        ],
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Without VNNI, sums of full 8-bit products overflow.
        reduce_range=onnx_files.processor() == "x86",
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
    )
    quantized = onnx.load(work)
    work.unlink()
    return quantized


def _write(
    model: onnx.ModelProto, columns: dict[str, Columns], matrices: list[Matrix], target: Path
) -> None:
    """Fill in the matrices, each as it is written."""
    import onnx
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    data = target.with_name(f"{target.name}.data")
    with data.open("wb") as file:
        for name, tensor in tensors.items():
            source = name.removesuffix("_quantized")
            if source not in columns:
                continue
            parts = [matrices[number][:, part] for number, part in columns[source]]
            values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            if name != source:
                scale, zero = (tensors[f"{source}_{what}"] for what in ("scale", "zero_point"))
                values = _to_integers(values, *map(numpy_helper.to_array, (scale, zero)))
            file.seek(-file.tell() % _PAGE_BYTES, 1)
            place = {"location": data.name, "offset": file.tell(), "length": values.nbytes}
            file.write(np.ascontiguousarray(values).data)
            _point(tensor, values.shape, place)
    onnx.save(model, target)


def _to_integers(values: Matrix, scale: Matrix, zero: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Quantize as ONNX Runtime does: the nearest integer, halves to the even one."""
    rounded = values / scale
    np.rint(rounded, out=rounded)
    rounded += zero
    limits = np.iinfo(zero.dtype)
    np.clip(rounded, limits.min, limits.max, out=rounded)
    return rounded.astype(zero.dtype, order="C")


def _point(tensor: onnx.TensorProto, shape: tuple[int, ...], place: dict[str, Any]) -> None:
    """Let a tensor's data lie in another file."""
    import onnx

    name, kind = tensor.name, tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type = name, kind
    tensor.dims.extend(shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
