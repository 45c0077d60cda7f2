"""What the plugin's widgets share: layers, the engine, the session and small views."""
