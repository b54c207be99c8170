"""Planning: which units belong together, what a network costs, and what each group keeps."""
