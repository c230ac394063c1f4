"""Everything that needs torch or onnxruntime: images, network, checkpoint, graders."""
