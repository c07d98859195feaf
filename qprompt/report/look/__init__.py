"""A look inside one run: the words near its context, its classes, its mistakes, and what quantization changed."""
