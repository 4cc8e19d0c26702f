"""The demo: a Label Studio of one's own with a project, the service and a worker."""
