"""Pictures of cases with their heat maps."""
