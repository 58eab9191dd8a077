"""Work items for coffea's ``Runner``, and an executor that starts each when its file is there."""
