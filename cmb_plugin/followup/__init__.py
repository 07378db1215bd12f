"""Several scans of one person: laid over each other, lesions told apart into new, stable and gone."""
