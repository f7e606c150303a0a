"""Exported models: ONNX, torch.export, safetensors and AOTInductor; written, read back, and compared with the model."""
