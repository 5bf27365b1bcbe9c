"""A hospital's export of DICOM files becomes a table of its series, and a manifest: see ``export``."""
