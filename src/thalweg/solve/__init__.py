"""The solver: full-batch minimisation with and without constraints, and the certificate of what was found."""
