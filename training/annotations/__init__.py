"""What people annotated: Label Studio's client, photos, and snapshots of projects."""
