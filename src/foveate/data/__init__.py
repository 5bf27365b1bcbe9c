"""Many files become a cohort: manifest, audit, splits, dataset, phantom."""
