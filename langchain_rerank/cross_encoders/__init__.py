"""Cross encoders: pairs of texts in, floats out."""
