"""Label Studio: label configs, brush masks, regions, and safe fetching of photos."""
