"""The agent of one device: it watches a machine, tells the cloud only what is unusual, and installs better models.

`app` is the only place that reads settings and builds adapters. Nothing runs at import.
"""
