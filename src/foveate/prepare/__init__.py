"""An image becomes a tensor, with a way back."""
