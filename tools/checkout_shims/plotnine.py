"""DePT imports this package; nothing is drawn here."""
