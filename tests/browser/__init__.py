"""Reports in a real browser, headless Chromium; skipped, with the reason, where there is none."""
