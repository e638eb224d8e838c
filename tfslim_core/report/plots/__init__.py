"""The plots of the page: pure functions from numbers to inline SVG."""
