"""Tables in tensor-train form: shapes, decomposition, quantisation and import."""
