"""Average precision, matching of detections and validation losses."""
