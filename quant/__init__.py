"""Floor 3: level sets, codec, fake-quant, QAT, the packed file and the integer engine."""

from kernels.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "codec": ["decode", "encode", "quantize"],
        "config": ["QuantConfig"],
        "conversion": ["convert"],
        "level_sets": ["SCHEMES", "levels"],
        "mixed": ["assign_schemes", "sensitivity"],
        "onnx_export": ["export_onnx"],
        "onnx_file": ["OnnxFile"],
        "packed": ["PackedModel"],
        "post_training": ["PtqResult", "ptq"],
        "qat": ["is_prepared", "load_qat", "prepare_qat", "save_qat"],
        "qonnx_form": ["export_qonnx"],
        "sqnr": ["sqnr_table"],
    },
)
