"""A trained model used elsewhere: engines, exported files, whole archives."""
