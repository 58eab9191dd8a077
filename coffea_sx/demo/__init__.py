"""The main job, small but whole: sample files, a query, a processor, a picture."""
