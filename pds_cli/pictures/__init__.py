"""Images on disk and on sheets: reading, writing, resizing, contact sheets, films, colours."""
