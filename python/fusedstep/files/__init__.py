"""Files of arrays and plain values, ``.safetensors`` and ``.npz``: whole or not there, checked when they are read.

What a file holds is a tree (`_tree`): nested dicts, lists and tuples of plain values and arrays. Its arrays are stored
one after the other, and everything else is JSON, the *index*: the tree, and each array's name, dtype, shape and
CRC-32. The bytes around the arrays, the *frame*, follow from the index alone (`_safetensors`, `_npz`). So a reader
trusts nothing but the index: it makes the frame anew and compares it with the file's.
"""
