"""From a trained network to an integer program: reference, C99, ONNX, OpenVINO, NIR."""
