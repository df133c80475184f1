"""Records become one self-contained HTML page. No torch: a page is drawn where nothing else is installed."""
