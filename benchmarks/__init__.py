"""Side-by-side measurements against peers, each a script that writes its row of results.md."""
