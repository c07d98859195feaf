"""The `clip` package of the checkout, which its trainers must import even if another one is installed."""

OWN = True
