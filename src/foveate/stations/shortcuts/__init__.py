"""How shortcuts are looked for: regions of the input, content exchanged between cases, evidence outside."""
