"""Deep Compression (Han, Mao & Dally, 1510.00149): prune, share weights, code them in a file.

`prune` and `structured` take weights away, `share` replaces them by centroids, `parametrize` trains what is
left through any loss of kdjax, `retrain` is a loop for that, `huffman`, `sparse` and `file` store the result.
"""
