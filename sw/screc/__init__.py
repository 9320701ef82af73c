"""SCRec: from a DLRM and its access log to a verified FPGA accelerator."""

__version__ = "0.1.0"
