"""The mathematics of 3D detection and tracking: stateless, batched, tensors in and tensors out, on any device.

:mod:`.geometry` cameras, angles and frames; :mod:`.overlaps` IoU of plain and turned boxes; :mod:`.codecs` what heads
predict; :mod:`.losses` of the 3D head and :mod:`.quasi_dense` of the embeddings; :mod:`.mode` published or mended.
"""
