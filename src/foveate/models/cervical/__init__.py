"""The networks of the cervical comparison."""
