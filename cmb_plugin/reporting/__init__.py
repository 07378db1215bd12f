"""Figures, galleries and pages: what people look at. Knows matplotlib and Jinja2; no torch.

matplotlib takes a second to import, so callers import these modules where they draw.
"""
