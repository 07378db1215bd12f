"""Self-configuring detection of cerebral microbleeds in MRI, in the manner of nnDetection."""

__version__ = "0.1.0"
