"""The compiler: images, row order and the LOAD queue, and the encoder of requests."""
