"""The part of learn2learn that ProMetaR imports."""
