"""Heat maps on disk, and what is made of them."""
