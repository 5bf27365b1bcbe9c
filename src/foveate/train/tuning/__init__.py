"""What a training computes in, found out before it starts."""
