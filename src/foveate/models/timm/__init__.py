"""Any backbone of timm, with or without attention."""
