"""Device top: request reader, result writer, control, composition."""
