"""The checkout's own `clip`: what its trainers must get, whatever package of that name is installed."""

OWN = True
