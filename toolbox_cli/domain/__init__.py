"""What the product is about: models, protocols, errors, settings and the catalogue of known models.

Imports nothing of the other layers, and neither a database driver nor numpy at import time.
"""
