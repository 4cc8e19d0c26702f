"""The HTTP service that Label Studio calls for predictions."""
