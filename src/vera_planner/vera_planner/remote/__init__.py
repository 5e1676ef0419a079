"""Plans over the network: the websocket protocol of openpi and DreamZero, client and server."""
