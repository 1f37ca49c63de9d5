"""Training and testing of UniFormer video classifiers."""

__version__ = "0.1.0"
