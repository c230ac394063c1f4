"""Images, network, checkpoints and graders: the code that needs torch or ONNX Runtime."""
