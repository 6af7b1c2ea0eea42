"""A PyTorch classifier of handwritten digits, trained by four nodes."""
