"""The only room that imports ray: ingest (Data), trainer (Train), app (Serve), and the session they share."""
