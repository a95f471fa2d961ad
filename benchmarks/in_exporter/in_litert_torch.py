# SPDX-License-Identifier: Apache-2.0
"""litert-torch: its PT2E quantizer (per channel, static), PTQ and QAT, and its converter."""

from __future__ import annotations

import copy
from typing import Any

import litert_torch
import torch
from common import FOLDER, attempt, calibration, eager_qat, inputs, output_params, plain, save_reference, train
from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
from litert_torch.quantize.quant_config import QuantConfig
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

X = inputs()[:1]


def quantizer(is_qat: bool) -> PT2EQuantizer:
    return PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_qat=is_qat))


def ptq() -> str:
    chosen = quantizer(is_qat=False)
    prepared = prepare_pt2e(torch.export.export(plain(), (X,)).module(), chosen)
    with torch.no_grad():
        for row in calibration():
            prepared(row[None])
    module = convert_pt2e(prepared, fold_quantize=False)
    save_reference(module, output_params(module))
    litert_torch.convert(module, (X,), quant_config=QuantConfig(pt2e_quantizer=chosen)).export(FOLDER / "int8.tflite")
    return "yes"


def qat() -> str:
    chosen = quantizer(is_qat=True)
    float_network = copy.deepcopy(plain()).train()
    exported = torch.export.export(float_network, (inputs()[:32],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    prepared = prepare_qat_pt2e(exported.module(), chosen)
    train(prepared)
    module = convert_pt2e(move_exported_model_to_eval(prepared), fold_quantize=False)
    litert_torch.convert(module, (X,), quant_config=QuantConfig(pt2e_quantizer=chosen)).export(FOLDER / "qat.tflite")
    return "yes"


def eager() -> str:
    litert_torch.convert(eager_qat(plain()), (X,)).export(FOLDER / "eager.tflite")
    return "yes"


result: dict[str, Any] = {}
attempt(result, "ptq", ptq)
attempt(result, "qat", qat)
attempt(result, "eager", eager)
print(result)
