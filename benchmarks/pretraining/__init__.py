"""How the weights of the package are trained: rounds of fresh phantoms, and the table of what each brought."""
