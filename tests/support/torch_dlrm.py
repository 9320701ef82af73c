"""A DLRM as people write it in PyTorch, its ONNX export, and its quantisation by ONNX Runtime."""

import logging
import warnings

import numpy as np
import torch
from torch import nn


class PlainDlrm(nn.Module):
    """facebookresearch/dlrm's forward pass with one id per feature, or bags of fixed lengths.

    ``lengths``: ids per feature, columns of one input; ``means``: features that are averaged.
    """

    def __init__(self, model, lengths=None, means=(), sigmoid=True):
        super().__init__()
        self.bot_l, self.top_l = model.bottom, model.top
        self.emb_l = nn.ModuleList(nn.Embedding.from_pretrained(t.weight) for t in model.tables)
        self.shape = model.shape
        self.lengths = lengths or [1] * len(self.emb_l)
        self.means = means
        self.sigmoid = sigmoid

    def forward(self, *inputs):
        ids, ly, at = inputs[-1], [], 0
        for i, (table, length) in enumerate(zip(self.emb_l, self.lengths, strict=True)):
            if length == 1:
                ly.append(table(ids[:, at]))
            else:
                rows = table(ids[:, at : at + length])
                ly.append(rows.mean(1) if i in self.means else rows.sum(1))
            at += length
        x = [self.bot_l(inputs[0])] if self.shape.dense else []
        z = torch.cat(x + ly, dim=1)
        if self.shape.interaction == "dot":
            count = len(x + ly)
            T = z.view((z.size(0), count, -1))
            Z = torch.bmm(T, torch.transpose(T, 1, 2))
            li = torch.tensor([i for i in range(count) for j in range(i)])
            lj = torch.tensor([j for i in range(count) for j in range(i)])
            z = torch.cat([*x, Z[:, li, lj]], dim=1)
        logit = self.top_l(z)
        return torch.sigmoid(logit) if self.sigmoid else logit


def inputs_of(batch, dense):
    """Inputs of a batch with bags of fixed lengths, by name."""
    ids = np.concatenate([b.ids.reshape(len(batch), -1) for b in batch.bags], axis=1)
    return ({"dense": batch.dense} if dense else {}) | {"ids": ids}


def export(module, batch, path, *, dynamo=True, open_batch=True):
    """Export to ONNX with either of PyTorch's exporters."""
    feeds = inputs_of(batch, module.shape.dense)
    example = tuple(torch.from_numpy(v) for v in feeds.values())
    names = list(feeds)
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = tuple({0: torch.export.Dim("n")} for _ in names) if open_batch else None
            shapes = {"inputs": shapes} if shapes else None
            options = {"dynamic_shapes": shapes, "external_data": False, "verbose": False}
        else:
            options = {"dynamic_axes": {name: {0: "n"} for name in names} if open_batch else {}}
        torch.onnx.export(
            module, example, path, input_names=names, output_names=["p"], dynamo=dynamo, **options
        )


class Reader:
    """Calibration samples as onnxruntime.quantization takes them."""

    def __init__(self, batch, dense, step):
        parts = (batch.slice(i, i + step) for i in range(0, len(batch), step))
        self._feeds = (inputs_of(part, dense) for part in parts)

    def get_next(self):
        return next(self._feeds, None)


def quantise(path, to, batch, dense, *, symmetric, operators=None, step=256):
    """Quantise as users do: QDQ, by smallest and largest values of the calibration samples.

    ``operators``: kinds that are quantised; None: all that ONNX Runtime can.
    """
    from onnxruntime import quantization

    options = {}
    if symmetric:
        options = {
            "activation_type": quantization.QuantType.QInt8,
            "weight_type": quantization.QuantType.QInt8,
            "per_channel": True,
            "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
        }
    logging.getLogger().disabled = True  # advice on preprocessing
    try:
        quantization.quantize_static(
            path,
            to,
            Reader(batch, dense, step),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=operators,
            **options,
        )
    finally:
        logging.getLogger().disabled = False


def runtime_outputs(path, batch, dense):
    """Outputs that ONNX Runtime computes, float64 ``(n,)``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = [batch.slice(i, i + 4096) for i in range(0, len(batch), 4096)]
    return np.concatenate(
        [session.run(None, inputs_of(p, dense))[0].ravel() for p in parts]
    ).astype(np.float64)
