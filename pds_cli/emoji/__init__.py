"""The embedded world of icons: open icon sets, their names, and pictures of them."""
