"""Cross encoders that run elsewhere, behind a /rerank server."""
