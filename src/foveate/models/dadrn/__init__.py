"""DADRN, the dual-attention dilated residual network."""
