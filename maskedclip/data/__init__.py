"""Samples on disk, their order, and the batches made of them.

Axes as in maskedclip, and: E tries of a crop box, F numbers drawn, J taps of a kernel, Q images x
channels.
"""
