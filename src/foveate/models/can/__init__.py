"""CAN, the cross-attention of two networks."""
