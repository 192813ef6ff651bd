"""Compare runs: tiled with untiled (the certificate), tile sizes, blends, before with after."""
