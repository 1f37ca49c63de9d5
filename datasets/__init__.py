"""The demo data set, and preparation of public data sets. Installed as slowfast_uniformer.datasets."""
